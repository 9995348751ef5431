"""The metrics on answers judged by hand, and against a second, slow implementation of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.benchmark_files import small_set
from tests.support.slow_answers import (
    slow_first_number,
    slow_first_words_contain,
    slow_number_is_right,
)
from toolformer_core.benchmarks.base import first_number, first_words_contain, number_is_right
from toolformer_core.benchmarks.registry import load_benchmark

RIGHT, WRONG = True, False

# answer, gold, verdict. By the paper: the first number, or the first behind "=".
NUMBERS = [
    (" 7", "7", RIGHT),
    ("7", "7", RIGHT),
    (" 7.", "7", RIGHT),
    (" 7, and no more.", "7", RIGHT),
    (" 7 apples", "7", RIGHT),
    ("\n7\n8", "7", RIGHT),
    (" 8, no, 7", "7", WRONG),
    (" seven", "7", WRONG),
    (" seven, that is 7", "7", RIGHT),
    ("", "7", WRONG),
    (" none", "0", WRONG),
    (" 0", "0", RIGHT),
    (" 0.0", "0", RIGHT),
    (" 07", "7", RIGHT),
    (" 7.0", "7", RIGHT),
    (" 7", "7.0", RIGHT),
    (" 7.50", "7.5", RIGHT),
    (" 7.5.", "7.5", RIGHT),
    (" 7.", "7.5", WRONG),
    (" 7.05", "7.5", WRONG),
    (" .5", "0.5", RIGHT),
    (" 0.5", ".5", RIGHT),
    (" about .25 of it", "0.25", RIGHT),
    (" 7..5", "7", RIGHT),
    (" 1.2.3", "1.2", RIGHT),
    # Thousands
    (" 1,234", "1234", RIGHT),
    (" 1,234.", "1234", RIGHT),
    (" 1,234,567", "1234567", RIGHT),
    (" 1,234,567.89 in all", "1234567.89", RIGHT),
    (" 1,234 or 5", "5", WRONG),
    (" 12,345", "12345", RIGHT),
    (" 123,456", "123456", RIGHT),
    (" 1234,567", "1234", RIGHT),
    (" 1234,567", "1234567", WRONG),
    (" 1,23", "1", RIGHT),
    (" 1,23", "123", WRONG),
    (" 1,2345", "12345", WRONG),
    (" 1,2345", "1", RIGHT),
    (" 1,234,56", "1234", RIGHT),
    (" 3,4 and 5", "3", RIGHT),
    (" 3,4 and 5", "34", WRONG),
    (" 1, 234", "1", RIGHT),
    (" 1 234", "1", RIGHT),
    (" 1,000", "1000.0", RIGHT),
    (" 1,000", "1", WRONG),
    (" 1.000", "1", RIGHT),
    (" 1.000", "1000", WRONG),
    # Signs
    (" -5", "-5", RIGHT),
    (" -5", "5", WRONG),
    (" 5", "-5", WRONG),
    (" \u22125", "-5", RIGHT),
    (" minus 5", "5", RIGHT),
    (" minus 5", "-5", WRONG),
    (" (-5)", "-5", RIGHT),
    (" -5.5 degrees", "-5.5", RIGHT),
    (" -.5", "-0.5", RIGHT),
    (" - 5 apples", "5", RIGHT),
    (" - 5 apples", "-5", WRONG),
    ("\n- 5\n- 6", "5", RIGHT),
    (" COVID-19", "19", RIGHT),
    (" 3-4", "3", RIGHT),
    (" pages-4", "4", RIGHT),
    (" x.-4", "4", RIGHT),
    (" +5", "5", RIGHT),
    (" --5", "-5", RIGHT),
    (" -1,234", "-1234", RIGHT),
    # Currencies and units
    (" $3.50", "3.5", RIGHT),
    (" $ 3.50", "3.5", RIGHT),
    (" -$3", "-3", RIGHT),
    (" $-3", "-3", RIGHT),
    (" -$ 3", "-3", RIGHT),
    (" \u20ac1,200", "1200", RIGHT),
    (" \u00a320", "20", RIGHT),
    (" 50%", "50", RIGHT),
    (" 50%", "0.5", WRONG),
    (" 7kg", "7", RIGHT),
    (" 7th", "7", RIGHT),
    (" B12", "12", RIGHT),
    (" 12:30", "12", RIGHT),
    (" 1/2", "1", RIGHT),
    (" 1/2", "0.5", WRONG),
    (" \u00bd", "0.5", WRONG),
    (" \u0667", "7", WRONG),
    (" 2^3", "2", RIGHT),
    (" 1e3", "1", RIGHT),
    # Equations
    (" 3 + 4 = 7", "7", RIGHT),
    (" 3 + 4 = 7", "3", WRONG),
    (" 5+3=8", "8", RIGHT),
    (" 5+3=8.", "8", RIGHT),
    (" The correct answer is 5+3=8", "8", RIGHT),
    (" 3 + 4 = 7, and 7 + 1 = 8", "7", RIGHT),
    (" 3 + 4 = 7, and 7 + 1 = 8", "8", WRONG),
    (" x = 3 * 4 = 12", "3", RIGHT),
    (" x = 3 * 4 = 12", "12", WRONG),
    (" 12. Since 3 * 4 = 13", "12", WRONG),
    (" 12. Since 3 * 4 = 13", "13", RIGHT),
    (" = 1,200", "1200", RIGHT),
    (" = $1,200.50", "1200.5", RIGHT),
    (" 4 - 9 = -5", "-5", RIGHT),
    (" 4 - 9 = \u22125", "-5", RIGHT),
    (" 4 - 9 =-5", "-5", RIGHT),
    (" 10 - 3=7", "7", RIGHT),
    (" 5 = five", "5", RIGHT),
    (" x =", "0", WRONG),
    (" 9 =", "9", RIGHT),
    (" 3 == 4", "4", RIGHT),
    (" => 6", "6", RIGHT),
    (" 2 <= 6", "6", RIGHT),
    ("=", "1", WRONG),
    (" 3 + 4 equals 7", "3", RIGHT),
    (" 3 + 4 \u2248 7", "3", RIGHT),
    # Nearness
    (" 0.333333", "0.3333333", RIGHT),
    (" 0.33", "0.3333333", WRONG),
    (" 3.33", "3.333", WRONG),
    (" 10000000", "10000001", RIGHT),
    (" 1000000", "1000002", WRONG),
    (" 7.01", "7", WRONG),
    (" 7.0000001", "7", RIGHT),
    (" " + "1" * 400, "7", WRONG),
]

# answer, gold, number of words, verdict. LAMA and dates 5, MLQA 10, open questions 20.
WORDS = [
    (" Monday", "Monday", 5, RIGHT),
    (" monday", "Monday", 5, RIGHT),
    (" MONDAY!", "Monday", 5, RIGHT),
    (" it is Monday.", "Monday", 5, RIGHT),
    (" one two three four Monday", "Monday", 5, RIGHT),
    (" one two three four five Monday", "Monday", 5, WRONG),
    (" one two three four five Monday", "Monday", 10, RIGHT),
    (" one\ntwo\n\nthree\tfour Monday", "Monday", 5, RIGHT),
    (" one - two - Monday", "Monday", 5, RIGHT),
    (" one - two - three Monday", "Monday", 5, WRONG),
    (" 1 2 3 4 5 6 7 8 9 Monday", "Monday", 10, RIGHT),
    (" 1 2 3 4 5 6 7 8 9 10 Monday", "Monday", 10, WRONG),
    (" a" * 19 + " Monday", "Monday", 20, RIGHT),
    (" a" * 20 + " Monday", "Monday", 20, WRONG),
    (" Mondays are dull", "Monday", 5, WRONG),
    (" Monday's child", "Monday", 5, RIGHT),
    (" Cyber-Monday", "Monday", 5, RIGHT),
    (" (Monday)", "Monday", 5, RIGHT),
    (' "Monday"', "Monday", 5, RIGHT),
    (" *Monday*", "Monday", 5, RIGHT),
    (" _Monday_", "Monday", 5, RIGHT),
    (" Monday,Tuesday", "Monday", 5, RIGHT),
    (" MondayTuesday", "Monday", 5, WRONG),
    (" Tuesday", "Monday", 5, WRONG),
    ("", "Monday", 5, WRONG),
    (" ", "Monday", 5, WRONG),
    (" Monday", "", 5, WRONG),
    (" Monday", " ", 5, WRONG),
    # Several words, and the edge of the window
    (" in New York City", "New York", 5, RIGHT),
    (" in New\nYork", "New York", 5, RIGHT),
    (" in New   York", "New York", 5, RIGHT),
    (" in New York", "New  York", 5, RIGHT),
    (" in New-York", "New York", 5, WRONG),
    (" one two three four New York", "New York", 5, WRONG),
    (" one two three New York", "New York", 5, RIGHT),
    (" York New", "New York", 5, WRONG),
    (" Newer York", "New York", 5, WRONG),
    (" the University of Oregon", "University of Oregon", 5, RIGHT),
    (" University of Northern Oregon", "University of Oregon", 5, WRONG),
    (" one two three four five six the Beatles", "The Beatles", 20, RIGHT),
    (" Beatles", "The Beatles", 20, WRONG),
    (" Washington, D.C.", "Washington, D.C.", 5, RIGHT),
    (" Washington, D.C., in the east", "Washington, D.C.", 5, RIGHT),
    (" Washington D.C.", "Washington, D.C.", 5, WRONG),
    (" the U.S. Senate", "U.S.", 5, RIGHT),
    (" the US Senate", "U.S.", 5, WRONG),
    (" a c+b", "a.b", 5, WRONG),
    (" a.b", "a.b", 5, RIGHT),
    (" C++ or C", "C++", 5, RIGHT),
    (" C or D", "C++", 5, WRONG),
    (" (really?)", "really?", 5, RIGHT),
    (" Yahoo! Inc", "Yahoo!", 5, RIGHT),
    (" Yahoo Inc", "Yahoo!", 5, WRONG),
    # Numbers
    (" May 5", "5", 5, RIGHT),
    (" May 15", "5", 5, WRONG),
    (" May 5, 2020", "2020", 5, RIGHT),
    (" May 5,2020", "5", 5, RIGHT),
    (" 5th of May", "5", 5, WRONG),
    (" 3.5 miles", "5", 5, WRONG),
    (" 3.5 miles", "3", 5, WRONG),
    (" 3.5 miles", "3.5", 5, RIGHT),
    (" 3. Then more", "3", 5, RIGHT),
    (" It is 3.", "3", 5, RIGHT),
    (" v.5", "5", 5, RIGHT),
    (" 13.5 miles", "3.5", 5, WRONG),
    (" (2015), I think", "2015", 5, RIGHT),
    (" 12015 of them", "2015", 5, WRONG),
    (" 2015-16", "2015", 5, RIGHT),
    (" 6,853 km", "6853", 5, RIGHT),
    (" 6853 km", "6,853 km", 5, RIGHT),
    (" 1,234,567", "1234567", 5, RIGHT),
    (" 1,234,567", "234", 5, WRONG),
    (" 1,234", "1", 5, WRONG),
    (" 1,23", "1", 5, RIGHT),
    (" 6,853", "853", 5, WRONG),
    (" in 2010,500 people", "2010", 5, RIGHT),
    (" -5 days", "5", 5, RIGHT),
    (" $5", "$5", 5, RIGHT),
    (" $50", "$5", 5, WRONG),
    (" 5", "$5", 5, WRONG),
    (" 50%", "50", 5, RIGHT),
    (" 90210", "90210", 5, RIGHT),
    (" zero", "0", 5, WRONG),
    (" 0 years", "0", 5, RIGHT),
    (" 10 years", "0", 5, WRONG),
    # Letters of other shapes
    (" \u00c9t\u00e9 2015", "\u00e9t\u00e9", 5, RIGHT),
    (" E\u0301te\u0301", "\u00c9t\u00e9", 5, RIGHT),
    (" Ete", "\u00c9t\u00e9", 5, WRONG),
    (" STRASSE", "Stra\u00dfe", 5, RIGHT),
    (" rock \u2019n\u2019 roll", "rock 'n' roll", 5, RIGHT),
    (" \u201cHello\u201d", '"Hello"', 5, RIGHT),
    (" 1914\u20131918", "1914-1918", 5, RIGHT),
    (" 1914 to 1918", "1914-1918", 5, WRONG),
    (" na\u00efve", "na\u00efve", 5, RIGHT),
    (" \u0130stanbul", "Istanbul", 5, WRONG),
    # What looks like the answer but is another word
    (" art school", "art", 5, RIGHT),
    (" party", "art", 5, WRONG),
    (" Germany", "German", 5, WRONG),
    (" the Germans", "German", 5, WRONG),
    (" German", "Germany", 5, WRONG),
    (" CBSN", "CBS", 5, WRONG),
    (" CBS News", "CBS", 5, RIGHT),
    (" NBC, not CBS", "CBS", 5, RIGHT),
    (" I do not know", "know", 5, RIGHT),
    (" what is the gold colour", "gold", 5, RIGHT),
    (" gold-coloured", "gold", 5, RIGHT),
    (" golden", "gold", 5, WRONG),
]


def test_hand_judged_answers_are_more_than_200():
    assert len(set(NUMBERS)) + len(set(WORDS)) == len(NUMBERS) + len(WORDS) > 200


@pytest.mark.parametrize(("answer", "gold", "verdict"), NUMBERS)
def test_number_is_right_as_judged_by_hand(answer, gold, verdict):
    assert number_is_right(answer, (gold,)) is verdict
    assert slow_number_is_right(answer, (gold,)) is verdict


@pytest.mark.parametrize(("answer", "gold", "num_words", "verdict"), WORDS)
def test_first_words_contain_as_judged_by_hand(answer, gold, num_words, verdict):
    assert first_words_contain(answer, (gold,), num_words) is verdict
    assert slow_first_words_contain(answer, (gold,), num_words) is verdict


@given(st.text(alphabet="0123.,-=$\u2212 _a\n\u20ac", max_size=14))
def test_first_number_equals_the_slow_one(answer):
    assert first_number(answer) == slow_first_number(answer)


@given(
    st.text(alphabet="12,. a-_\u00c9\u2019'\n", max_size=14),
    st.text(alphabet="12,. a-\u00e9'", max_size=4),
    st.integers(1, 4),
)
def test_first_words_contain_equals_the_slow_one(answer, gold, num_words):
    expected = slow_first_words_contain(answer, (gold,), num_words)
    assert first_words_contain(answer, (gold,), num_words) is expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [(" 7 apples", 7), ("3 + 4 = 7", 7), ("x =", None), ("no number", None), ("-$3", -3)],
)
def test_first_number_is_the_papers(answer, expected):
    assert first_number(answer) == expected


@pytest.mark.parametrize("contain", [first_words_contain, slow_first_words_contain])
def test_first_words_contain_any_gold_answer(contain):
    assert contain("the UK", ("United Kingdom", "UK"), 5)
    assert not contain("the UK", (), 5)


@pytest.mark.parametrize("is_right", [number_is_right, slow_number_is_right])
def test_number_is_right_any_gold_number(is_right):
    assert is_right("7", ("8", "7"))
    assert not is_right("7", ())


@pytest.mark.parametrize(
    ("name", "last_right"),
    [("lama_squad", 5), ("templama_like", 5), ("dateset", 5), ("mlqa", 10), ("webquestions", 20)],
)
def test_benchmark_metric_has_the_papers_window(tmp_path, name, last_right):
    is_right = load_benchmark(small_set(tmp_path, name), 1, 0).is_right
    assert is_right(" a" * (last_right - 1) + " gold", ("gold",))
    assert not is_right(" a" * last_right + " gold", ("gold",))
