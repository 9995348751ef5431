"""Dateset against a calendar of its own, word problems, and the traps of both metrics."""

import calendar
import json
import re
from datetime import date, timedelta

import pytest

from toolformer_core.benchmarks.base import first_number, first_words_contain, number_is_right
from toolformer_core.benchmarks.dateset import dateset
from toolformer_core.benchmarks.registry import load_benchmark
from toolformer_core.benchmarks.word_problems import generated_word_problems, read_word_problems
from toolformer_core.errors import ConfigError, DataError

WEEKDAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = list(calendar.month_name)[1:]
NEAR = {
    "the day before yesterday": -2,
    "yesterday": -1,
    "today": 0,
    "tomorrow": 1,
    "the day after tomorrow": 2,
}
FIELDS = {
    "day of the week": lambda day: WEEKDAYS[day.weekday()],
    "day of the month": lambda day: str(day.day),
    "month": lambda day: MONTHS[day.month - 1],
    "year": lambda day: str(day.year),
}
PREFIX = "Answer the following question: "


def spoken_date(text):
    month, day, year = re.fullmatch(r"(\w+) (\d+), (\d{4})", text).groups()
    return date(int(year), MONTHS.index(month) + 1, int(day))


def expected_answer(question, today):
    """The answer, read off the question's words."""
    if match := re.fullmatch(r"How many days (ago was|until) (.+)\?", question):
        distance = (spoken_date(match[2]) - today).days
        assert (distance < 0) == (match[1] == "ago was")
        return str(abs(distance))
    if match := re.fullmatch(r"What day of the week (was it|will it be) on (.+)\?", question):
        day = spoken_date(match[2])
        assert (day < today) == (match[1] == "was it")
        return FIELDS["day of the week"](day)
    if match := re.fullmatch(r"What (.+) was it (\d+) days ago\?", question):
        return FIELDS[match[1]](today - timedelta(days=int(match[2])))
    if match := re.fullmatch(r"What (.+) will it be in (\d+) days\?", question):
        return FIELDS[match[1]](today + timedelta(days=int(match[2])))
    match = re.fullmatch(r"What (.+) (?:was|is) it (.+)\?", question)
    return FIELDS[match[1]](today + timedelta(days=NEAR[match[2]]))


@pytest.mark.parametrize("seed", [0, 7])
def test_dateset_answers_equal_those_of_another_calendar(seed):
    for item in dateset(500, seed).items:
        question = item.prompt.removeprefix(PREFIX)
        assert item.gold == (expected_answer(question, date.fromisoformat(item.date)),), question


def test_dateset_prompt_is_the_papers():
    assert all(item.prompt.startswith(PREFIX) for item in dateset(10, 0).items)
    assert all(item.prompt.endswith("?") for item in dateset(10, 0).items)


def test_dateset_has_every_template_and_field():
    questions = [item.prompt.removeprefix(PREFIX) for item in dateset(400, 0).items]
    starts = ["How many days ago", "How many days until", "What year", "What month"]
    for start in [*starts, "What day of the week", "What day of the month"]:
        assert any(question.startswith(start) for question in questions), start
    assert all(any(question.endswith(f"{near}?") for question in questions) for near in NEAR)


def test_dateset_dates_lie_within_four_years():
    for item in dateset(500, 3).items:
        if match := re.search(r"(?:was|until|on) (\w+ \d+, \d{4})\?", item.prompt):
            distance = abs((spoken_date(match[1]) - date.fromisoformat(item.date)).days)
            assert 1 <= distance <= 4 * 366


def test_dateset_same_seed_gives_the_same_items():
    assert dateset(50, 1).items == dateset(50, 1).items


def test_dateset_other_seed_gives_other_items():
    one, other = dateset(50, 1).items, dateset(50, 2).items
    assert sum(a.prompt == b.prompt for a, b in zip(one, other, strict=True)) < 5


def test_dateset_fewer_items_are_the_first_ones():
    assert dateset(10, 1).items == dateset(50, 1).items[:10]


def test_dateset_item_ids_are_unique():
    assert len({item.item_id for item in dateset(500, 0).items}) == 500


def test_dateset_metric_looks_at_five_words():
    is_right = dateset(1, 0).is_right
    assert is_right("It will be a Monday", ("Monday",))
    assert not is_right("I think it is a Monday", ("Monday",))


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [
        ("Monday", "Monday", True),
        (" it is MONDAY.", "Monday", True),
        ("one two three four Monday", "Monday", True),
        ("one two three four five Monday", "Monday", False),
        ("one\ntwo\n\nthree four Monday", "Monday", True),
        ("Mondays are dull", "Monday", False),
        ("May 5", "5", True),
        ("May 15", "5", False),
        ("5th of May", "5", False),
        ("(2015), I think", "2015", True),
        ("12015 of them", "2015", False),
        ("in New York City", "New York", True),
        ("one two three four New York", "New York", False),
        ("a c+b", "a.b", False),
        ("", "Monday", False),
        ("\u00c9t\u00e9 2015", "\u00e9t\u00e9", True),
    ],
)
def test_first_words_contain_whole_words_of_the_window(answer, gold, expected):
    assert first_words_contain(answer, (gold,), 5) is expected


def test_first_words_contain_any_gold_answer():
    assert first_words_contain("the UK", ("United Kingdom", "UK"), 5)


def test_first_words_contain_without_gold_answer_is_wrong():
    assert not first_words_contain("the UK", (), 5)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (" 7 apples", 7),
        ("3 + 4 = 7 apples", 7),
        ("7 apples, not 8", 7),
        ("3 + 4 = 7, and 7 + 1 = 8", 7),
        ("5 = five", 5),
        ("x =", None),
        ("1,234", 1234),
        ("1,234,567.89 in all", 1234567.89),
        ("-5", -5),
        ("minus -5.5 degrees", -5.5),
        ("$3.50", 3.5),
        ("-$3", -3),
        ("= $1,200", 1200),
        ("no number", None),
        ("", None),
        ("7.", 7),
        ("7, or 8", 7),
        ("1,234.", 1234),
        (".5 litres", 0.5),
        ("(7)", 7),
        ("3-4", 3),
        ("50%", 50),
    ],
)
def test_first_number_is_the_papers(answer, expected):
    assert first_number(answer) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("3,4 and 5", 3),  # a list is read as 34: the comma parts no thousands
        ("COVID-19", 19),  # the hyphen of a word is read as a minus sign
        ("\u22125", -5),  # the typographic minus sign is not read
    ],
)
def test_first_number_next_to_punctuation_is_not_distorted(answer, expected):
    assert first_number(answer) == expected


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [
        ("7", "7", True),
        ("7.0", "7", True),
        ("7", "7.0", True),
        ("1,000 apples", "1000", True),
        ("7.01", "7", False),
        ("0.333333", "0.3333333", True),
        ("0.3334", "0.3333333", False),
        ("10000000", "10000001", True),
        ("1000000", "1000002", False),
        ("-7", "7", False),
        ("seven", "7", False),
        ("8, no, 7", "7", False),
    ],
)
def test_number_is_right_to_a_millionth(answer, gold, expected):
    assert number_is_right(answer, (gold,)) is expected


def test_number_is_right_number_beyond_floats_is_wrong():
    assert not number_is_right("1" * 400, ("7",))


def rows_file(folder, *rows):
    path = folder / "svamp.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


ROW = {"id": "q1", "body": "Ann has 3.", "question": "Twice that?", "answer_number": 6}


def test_read_word_problems_prompt_is_the_papers(tmp_path):
    [item] = read_word_problems("svamp", rows_file(tmp_path, ROW)).items
    assert item.prompt == "Ann has 3. Twice that? The answer is"
    assert (item.gold, item.date) == (("6",), None)


def test_read_word_problems_row_without_number_is_left_out(tmp_path):
    path = rows_file(tmp_path, {**ROW, "answer_number": None}, ROW)
    assert len(read_word_problems("svamp", path).items) == 1


@pytest.mark.parametrize("row", [{"body": "a", "question": "b"}, {"answer_number": 1}, [1], "text"])
def test_read_word_problems_row_without_a_field_is_named(tmp_path, row):
    path = rows_file(tmp_path, ROW, row)
    with pytest.raises(DataError, match=r"svamp\.jsonl row 2: .*expected JSON with body, question"):
        read_word_problems("svamp", path)


def test_read_word_problems_line_that_is_no_json_is_named(tmp_path):
    path = tmp_path / "svamp.jsonl"
    path.write_text("{oops")
    with pytest.raises(DataError, match=r"svamp\.jsonl row 1: "):
        read_word_problems("svamp", path)


def test_generated_word_problems_same_seed_gives_the_same_problems():
    items = generated_word_problems(5, 1).items
    assert items == generated_word_problems(5, 1).items
    assert not {i.prompt for i in items} & {i.prompt for i in generated_word_problems(5, 2).items}


def test_generated_word_problems_own_answer_is_right():
    benchmark = generated_word_problems(10, 0)
    assert all(benchmark.is_right(f" {item.gold[0]}.", item.gold) for item in benchmark.items)
    assert all(item.prompt.endswith(" The answer is") for item in benchmark.items)


def test_load_benchmark_limit_cuts_a_file(tmp_path):
    path = rows_file(tmp_path, *[{**ROW, "id": k} for k in range(5)])
    benchmark = load_benchmark(f"svamp={path}", 3, 0)
    assert (benchmark.name, len(benchmark.items)) == ("svamp", 3)


def test_load_benchmark_limit_sizes_a_generated_set():
    assert load_benchmark("dateset", 7, 5).items == dateset(7, 5).items


def test_load_benchmark_without_limit_has_200_items():
    assert len(load_benchmark("dateset", None, 0).items) == 200


@pytest.mark.parametrize("spec", ["lama", "dateset=x.jsonl", ""])
def test_load_benchmark_unknown_name_lists_the_known_ones(spec):
    with pytest.raises(ConfigError, match="known benchmarks: dateset, word_problems, asdiv=PATH"):
        load_benchmark(spec, None, 0)


@pytest.mark.parametrize("spec", ["asdiv", "asdiv=missing.jsonl"])
def test_load_benchmark_without_its_file_says_what_to_pass(spec):
    with pytest.raises(ConfigError, match="pass --benchmark asdiv=PATH"):
        load_benchmark(spec, None, 0)
