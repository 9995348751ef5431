"""Calculator against fractions.Fraction, on generated expressions."""

from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.fuzz import calculator
from tests.fuzz.harness import Case, Tally, Wrong, examine, fuzz_drawn, fuzz_hypothesis
from toolformer_core.errors import ToolInputRejected
from toolformer_core.notation import parse_call, render_call_with_result
from toolformer_core.tools.base import NO_DOCUMENT
from toolformer_core.tools.calculator import Calculator

CALCULATOR = Calculator()

OPERATIONS = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b if b else None,
}

LITERALS = st.one_of(
    st.integers(0, 99_999).map(str),
    st.integers(1000, 9_999_999).map(lambda n: f"{n:,}"),
    st.decimals(0, 999, places=2).map(str),
)


def combine(children):
    return st.tuples(children, st.sampled_from("+-*/"), children, st.booleans()).map(_join)


def _join(parts):
    (left, a), symbol, (right, b), is_negated = parts
    value = None if a is None or b is None else OPERATIONS[symbol](a, b)
    text = f"({left} {symbol} {right})"
    return (f"-{text}", None if value is None else -value) if is_negated else (text, value)


LEAVES = LITERALS.map(lambda text: (text, Fraction(text.replace(",", ""))))
EXPRESSIONS = combine(st.recursive(LEAVES, combine, max_leaves=6))


@given(EXPRESSIONS)
def test_calculator_equals_exact_fractions(expression):
    text, value = expression
    assume(value is not None and abs(value) < 10**27 and len(text) <= 300)
    result = CALCULATOR.call(text, NO_DOCUMENT)
    assert abs(Fraction(result) - value) <= Fraction(1, 200)
    assert ("." in result) == (value.denominator != 1)
    assert CALCULATOR.is_right(result, f" {result} in all")


@given(EXPRESSIONS)
def test_calculator_division_by_zero_anywhere_is_rejected(expression):
    text, _ = expression
    with pytest.raises(ToolInputRejected):
        CALCULATOR.call(f"{text} / (1 - 1)", NO_DOCUMENT)


def test_calculator_fuzz_finds_nothing():
    tally = fuzz_drawn(calculator, seed=1, start=0, stop=3000)
    tally.add(fuzz_hypothesis(calculator, seed=1, num_inputs=100))
    assert tally.failures == []
    assert tally.count("valid", "compared") > 300


def test_calculator_fuzz_reports_a_wrong_answer_and_any_other_error():
    def check(result):
        raise Wrong(f"answered {result}, expected 2")

    tally = Tally()
    examine("valid", Case(text="1 + 1", run=lambda: "3", check=check), tally)
    examine("valid", Case(text="1 / 0", run=lambda: 1 / 0, check=check), tally)
    assert "answered 3, expected 2" in tally.failures[0]
    assert "raised ZeroDivisionError" in tally.failures[1]
    assert tally.count(outcome="failed") == 2


@given(st.text(alphabet="0123456789.,+-*/()% =$xe\u00d7", max_size=40))
def test_calculator_arithmetic_like_text_round_trips_the_notation(argument):
    try:
        result = CALCULATOR.call(argument, NO_DOCUMENT)
    except ToolInputRejected:
        return
    call = parse_call(render_call_with_result("Calculator", argument, result))
    assert (call.argument, call.result) == (argument, result)
    assert CALCULATOR.call(call.argument, NO_DOCUMENT) == result
