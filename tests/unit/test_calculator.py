"""Calculator: expected values worked out by hand."""

import time
from fractions import Fraction

import pytest

from toolformer_core.errors import ToolInputRejected
from toolformer_core.tools.base import NO_DOCUMENT
from toolformer_core.tools.calculator import Calculator, format_number

CALCULATOR = Calculator()

# A superscript two, which NFKC would turn into a digit; Arabic-Indic three.
SUPERSCRIPT_TWO, ARABIC_THREE = "\u00b2", "\u0663"


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
        ("\u20ac10 + \u00a35", "15"),
        ("658,893 / 11.4%", "5779763.16"),
        ("100% - 20 %", "0.80"),
        ('"3 + 4"', "7"),
        ("3\n+ 4", "7"),
    ],
)
def test_calculator_human_spelling_is_understood(argument, result):
    assert CALCULATOR.call(argument, NO_DOCUMENT) == result


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
        f"5{SUPERSCRIPT_TWO} + 1",
        f"{ARABIC_THREE} + 1",
        "1 + \x00",
    ],
)
def test_calculator_hostile_or_malformed_argument_is_rejected_at_once(argument):
    started = time.perf_counter()
    with pytest.raises(ToolInputRejected):
        CALCULATOR.call(argument, NO_DOCUMENT)
    assert time.perf_counter() - started < 1


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


@pytest.mark.parametrize(
    ("argument", "result"),
    [
        ("1" + "+1" * 149, "150"),
        ("1-" + "-" * 297 + "1", "2"),
        ("(" * 148 + "1+1" + ")" * 148, "2"),
    ],
)
def test_calculator_deepest_nesting_within_bounds_is_evaluated(argument, result):
    assert CALCULATOR.call(argument, NO_DOCUMENT) == result


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
