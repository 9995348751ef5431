"""Calculator: expected values worked out by hand."""

import re
from fractions import Fraction

import pytest

from toolformer_core.errors import ToolInputRejected
from toolformer_core.tools.base import NO_DOCUMENT
from toolformer_core.tools.calculator import Calculator, format_number

CALCULATOR = Calculator()


@pytest.mark.parametrize(
    ("argument", "result"),
    [
        ("27 + 4 * 2", "35"),
        ("735 / 499", "1.47"),
        ("85/23", "3.70"),
        ("400/1400", "0.29"),
        ("0.1 + 0.2", "0.30"),
        ("1.5 * 2", "3"),
        ("2.999 * 1", "3.00"),
        ("(3 + 4) * -2", "-14"),
        ("1 - 3/2", "-0.50"),
        ("05 + 3", "8"),
        ("1. + .5", "1.50"),
        ("9" * 30 + " + 0", "9" * 30),
    ],
)
def test_calculator_expression_gives_paper_format(argument, result):
    assert CALCULATOR.call(argument, NO_DOCUMENT) == result


@pytest.mark.parametrize(
    ("argument", "result"),
    [
        ("10,000*2", "20000"),
        ("1,234,567 + 1", "1234568"),
        ("5 \u00d7 3", "15"),
        ("3 x 4", "12"),
        ("12 \u00f7 5", "2.40"),
        ("5 \u2212 7", "-2"),
        ("9 \u2013 2", "7"),
        ("\uff12\uff0b\uff13", "5"),
        ("3 + 4 =", "7"),
        ("3 + 4 = ?", "7"),
        ("$12.50 * 4", "50"),
        ("\u20ac10 + 5 \u20ac", "15"),
        ("-$5 + 8", "3"),
        ("658,893 / 11.4%", "5779763.16"),
        ("100% - 20 %", "0.80"),
        ('"3 + 4"', "7"),
        ("3\n+ 4", "7"),
        ("=3+4", "7"),
        ("100 % - 20 %", "0.80"),
    ],
)
def test_calculator_human_spelling_is_understood(argument, result):
    assert CALCULATOR.call(argument, NO_DOCUMENT) == result


@pytest.mark.parametrize(
    ("argument", "result"),
    [
        ("\u0663 + \u0664", "7"),  # Arabic-Indic
        ("\u0967\u0968 * \u0968", "24"),  # Devanagari
        ("\U0001d7d0\U0001d7cf + 1", "22"),  # mathematical bold
        ("\u0661\u066c\u0662\u0663\u0664\u066b\u0665 * \u0665\u0660\u066a", "617.25"),
        ("7 \u2052 2", "5"),  # commercial minus
        ("7\u27962", "5"),
        ("7\u27952", "9"),
        ("7\u27972", "3.50"),
        ("7\u2716\ufe0f2", "14"),  # with an emoji's variation selector
        ("7 \u00b7 2", "14"),
        ("7\u22c52", "14"),
        ("7\ufe622", "9"),
        ("7\u2003-\u30002\ufeff", "5"),
        ("7\u200b+\u200e2", "9"),
    ],
)
def test_calculator_other_scripts_and_typography_are_understood(argument, result):
    assert CALCULATOR.call(argument, NO_DOCUMENT) == result


@pytest.mark.parametrize(
    "number",
    [
        "1,234,567",
        "12,34,567",  # India
        "1'234'567",
        "1\u2019234\u2019567",
        "1\u00a0234\u00a0567",
        "1\u2009234\u2009567",
        "1\u202f234\u202f567",
    ],
)
def test_calculator_parted_thousands_are_one_number(number):
    assert CALCULATOR.call(f"{number}.5 * 2", NO_DOCUMENT) == "2469135"


@pytest.mark.parametrize(
    "number",
    [
        "0,500",
        "01,234",
        "1,23",
        "1,2345",
        "1,234,56",
        "1.234,5",
        "1.5,000",
        "1,234\u00a0567",
        "1,234'567",
        "1 234",
        "1234\u00a0567",
        "1'23",
        "1\u200b234",
        "1$234",
        "1_234",
        "3\u00b714",
        "5\u00b2",
        "5\u2082",
        "\u00bd",
        "2\u00bd",
        "1\u20442",
        "\u2460",
        "\u2167",
        "\u4e94",
        "1\u00ad2",
        "\u202e12\u202c",
        "1e3",
        "0x10",
        "1:30",
        "5%%",
        "5\u2030",
    ],
)
def test_calculator_number_of_two_readings_is_rejected(number):
    for expression in (f"{number} + 1", f"1 + {number}", f"2 * ({number})"):
        with pytest.raises(ToolInputRejected):
            CALCULATOR.call(expression, NO_DOCUMENT)


@pytest.mark.parametrize(
    ("argument", "result"),
    [
        ("10% of 50", "5"),
        ("10 % of (20 + 30)", "5"),
        ("-10% of -50", "5"),
        ("50 - 20% of 50", "40"),
        ("100 / 20% of 50", "10"),  # BODMAS
        ("10% of 50% of 80", "4"),
        ("200 * 10%", "20"),
        ("200 * (1 + 10%)", "220"),
        ("200 * (1 - 10%)", "180"),
        ("10% + 5% - -1%", "0.16"),
        ("50% - 3", "-2.50"),
        ("7% -3", "-2.93"),
        ("200 + 10% * 50", "205"),
    ],
)
def test_calculator_percent_is_a_hundredth(argument, result):
    assert CALCULATOR.call(argument, NO_DOCUMENT) == result


@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        ("200 + 10%", "percentage of what"),
        ("200 - (10%)", "percentage of what"),
        ("1 + 10% + 5%", "percentage of what"),
        ("50 * 10% - -5%", "percentage of what"),
        ("7 % -3", "percent or remainder"),
        ("7 % 3 + 1", "not arithmetic"),
        ("\u20ac10 + \u00a35", "more than one currency"),
        ("50\u00a2 + $1", "more than one currency"),
        ("5\u00b2 + 1", "'\u00b2' is not expected"),
        ("1,5 + 1", "',' is not expected"),
        ("5 of 3 + 1", "not arithmetic"),
        ("(1 + 2", "not arithmetic"),
        ("1 + 2)(3 + 4", "not arithmetic"),
        ("(" * 51 + "1+1" + ")" * 51, "more than 50 nested"),
        ("1 / 0%", "division by zero"),
    ],
)
def test_calculator_rejection_gives_the_reason(argument, reason):
    with pytest.raises(ToolInputRejected, match=re.escape(reason)):
        CALCULATOR.call(argument, NO_DOCUMENT)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Fraction(1, 8), "0.13"),
        (Fraction(-1, 8), "-0.13"),
        (Fraction("2.005"), "2.01"),
        (Fraction("2.0049"), "2.00"),
        (Fraction("0.995"), "1.00"),
        (Fraction(-1, 1000), "0.00"),
        (Fraction(-4, 2), "-2"),
        (Fraction(0), "0"),
    ],
)
def test_format_number_exact_half_rounds_away_from_zero(value, text):
    assert format_number(value) == text


@pytest.mark.parametrize(
    "argument",
    [
        "9**9**9",
        "2**100000",
        "1e308*10",
        "__import__('os').system('true') + 1",
        "().__class__ + 1",
        "lambda: 1 + 1",
        "[1 + 1]",
        "1 + ...",
        "() + 1",
        "1 + 1; 2 + 2",
        "1 + x",
        "1 if 2 else 3 + 1",
        "7 % 3 + 1",
        "1 // 2 + 1",
        "1 << 9 + 1",
        "1j * 2",
        "1_000 + 1",
        "1 (2) + 1",
        "1 +",
        "1..2 + 3",
        "1,2 + 3",
        "12,34 + 1",
        "(" * 150 + "1+1",
        "1+" * 200 + "1",
        "-" * 100_000 + "1",
        "9" * 31 + " + 0",
        "9" * 100 + "*" + "9" * 100,
        "1 / 0",
        "1 / (2 - 2)",
        "1 + \x00",
        "1 + \ud800",
        "1(" * 98 + "1+1" + ")" * 98,
        "((1 1)" * 40 + "+1",
        "1 (2) * 3",
    ],
)
def test_calculator_hostile_or_malformed_argument_is_rejected(argument):
    with pytest.raises(ToolInputRejected):
        CALCULATOR.call(argument, NO_DOCUMENT)


@pytest.mark.parametrize("argument", ["", "5", "-5", "(5)", "50%", "$5 =", "1,000", "five"])
def test_calculator_argument_without_operation_is_rejected(argument):
    with pytest.raises(ToolInputRejected, match="no operation"):
        CALCULATOR.call(argument, NO_DOCUMENT)


@pytest.mark.parametrize("argument", ["9 ** 9", "1 +", "() + 1"])
def test_calculator_reason_is_the_same_each_time(argument):
    reasons = set()
    for _ in range(2):
        with pytest.raises(ToolInputRejected) as caught:
            CALCULATOR.call(argument, NO_DOCUMENT)
        reasons.add(str(caught.value))
    assert len(reasons) == 1
    assert " at 0x" not in reasons.pop()


DEEPEST = [
    ("1" + "+1" * 149, "150"),
    ("1-" + "-" * 297 + "1", "2"),
    ("(" * 50 + "1+1" + ")" * 50, "2"),
    ("-(" * 50 + "1+1" + ")" * 50, "2"),
    ("1-(" * 50 + "1" + ")" * 50, "1"),
    ("1%+" * 99 + "1%", "1"),
    ("1/" + "/".join(str(number) for number in range(900, 972)), "0.00"),
]


@pytest.mark.parametrize(("argument", "result"), DEEPEST)
def test_calculator_deepest_and_longest_within_bounds_is_evaluated(argument, result):
    assert CALCULATOR.call(argument, NO_DOCUMENT) == result


@pytest.mark.parametrize(("argument", "result"), DEEPEST)
def test_calculator_answer_does_not_depend_on_the_depth_of_the_caller(argument, result):
    def call_from(depth):
        return call_from(depth - 1) if depth else CALCULATOR.call(argument, NO_DOCUMENT)

    assert call_from(500) == result


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("34 apples and 57 pears, in all", " 91 pieces", True),
        ("34 + 57 =", " $91", True),
        ("5 - 9 is", " -4", True),
        ("34 + 57 =", " how many?", False),
        ("34 + 57 =", "\n91", False),
        ("she had 34 apples,", " 91", False),
        ("she had 34 and 57", "8", False),
        ("10,000 people", " 91", False),
        ("", "91", False),
    ],
)
def test_calculator_can_help_between_two_numbers_and_a_third(before, after, expected):
    assert CALCULATOR.can_help_at(before, after, NO_DOCUMENT) is expected


@pytest.mark.parametrize(
    ("result", "after", "expected"),
    [
        ("91", " 91 boxes", True),
        ("91", " about 91.", True),
        ("91", " 92 boxes, then 91", False),
        ("1.50", " 1.5 metres", True),
        ("50", " $50.00 in all", True),
        ("10000", " 10,000 people", True),
        ("24", " 24% of them", True),
        ("0.40", " 40% of them", True),
        ("0.40", " 40 percent", True),
        ("0.40", " 40 per cent", True),
        ("0.40", " 40 of them", False),
        ("0.41", " 40% of them", False),
        ("21", " 21st", True),
        ("50", " \u20b950", True),
        ("-5", " -5 degrees", True),
        ("5", " -5 degrees", False),
        ("5", " \u22125 degrees", False),
        ("3", " B12 and 3", True),
        ("91", " boxes", None),
        ("91", " " * 39 + "91", True),
        ("91", " " * 40 + "91", None),
    ],
)
def test_calculator_is_right_compares_the_next_number(result, after, expected):
    assert CALCULATOR.is_right(result, after) is expected
