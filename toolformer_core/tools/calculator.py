"""Calculator: the four operations on numbers, rounded to two decimals (paper, section 2).

Arithmetic is exact, over fractions, so that no digit comes from a float. What people write is
turned into plain arithmetic and checked against its grammar; only then does simpleeval parse it,
with nothing allowed but numbers and operators. Nothing is ever run as code.

Source: only + - * /; integers bare, else two decimals with trailing zero (Appendix A).
Choice: we read decimal digits of every script, forms that differ only in width or font,
typographic operators, one currency, thousands parted by comma (also the Indian way), apostrophe
or no-break or thin space, and a trailing "=". Not NFKC: it would turn a superscript two into 2.
Choice: p% is p / 100; "p% of" multiplies before * and /, as in BODMAS.
Choice: what has two readings is rejected: 0,500; 1 000 with a plain space; 3.14 with a middle dot;
1/2 with a fraction slash; two currencies; 7 % -3; 200 + 10%, which is 200.10 or 220. 1 + 10% is
1.10 either way.
Departs: the paper's calculator returns nothing for bad syntax; we reject with a reason.
"""

import ast
import operator
import re
import unicodedata
from fractions import Fraction
from functools import cache
from itertools import accumulate

from simpleeval import SimpleEval

from toolformer_core.errors import ToolInputRejected
from toolformer_core.notation import CURRENCY, unquote
from toolformer_core.tools.base import (
    TEXT_PARAMETER,
    CallContext,
    load_prompt,
    numbers_in,
    states_number,
)

MAX_ARGUMENT_CHARS = 300
MAX_RESULT_DIGITS = 30
MAX_NESTING = 50
"""Parentheses; what Python's parser can nest differs between its versions."""

_FORMS = ("<wide>", "<small>", "<font>")
_CHARACTERS = str.maketrans(
    dict.fromkeys("\u00d7\u22c5\u2217\u2219\u2715\u2716\u2a2f", "*")
    | dict.fromkeys("\u00f7\u2215\u2797", "/")
    | dict.fromkeys("\u2212\u2013\u2010\u2011\u2052\u2796", "-")
    | {"\u2795": "+", "\u066a": "%", "\u066b": ".", "\u066c": ","}
    # What has no width would join two numbers; as a space it can only part them.
    | dict.fromkeys("\u200b\u200c\u200d\u200e\u200f\u2060\u061c\ufe0e\ufe0f\ufeff", " ")
)
_GROUPED = re.compile(
    r"(?<![0-9.])(?:[1-9][0-9]{0,2}(?P<mark>[,'\u2019\u00a0\u2007\u2009\u202f])[0-9]{3}"
    r"(?:(?P=mark)[0-9]{3})*|[1-9][0-9]?(?:,[0-9]{2})+,[0-9]{3})(?![0-9])"
)
_TIMES = re.compile(r"(?<=[0-9.)%]) [xX\u00b7\u2022] (?=[-+(.0-9])")
_OPERATION = re.compile(r"[^-+*/( ] ?[-+*/]|% ?of")
_REMAINDER = re.compile(r"[0-9.)] % ?[-+][0-9.(]")
_FOREIGN = re.compile(r"[^-+*/().%0-9 ]")
_OPERAND = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)( ?%)?")
_EXPRESSION = re.compile(
    rf"[-+( ]*{_OPERAND.pattern}[) ]*"
    rf"(?:(?:[-+*/]|(?:(?<=%)|(?<=% ))of(?=[ (]))[-+( ]*{_OPERAND.pattern}[) ]*)*"
)
_SIGNS = re.compile(r"[-+][-+ ]*")
_NEXT_NUMBER = re.compile(rf"[ \t]*[-\u2212]?{CURRENCY}?[ ]?\.?[0-9]")


class CalculatorRules:
    """Where a calculation can help, and whether it is what the text says."""

    def can_help_at(self, before: str, after: str, context: CallContext) -> bool:
        """Whether two numbers stand before the place, none ends at it, and one comes next."""
        is_next = _NEXT_NUMBER.match(after) is not None
        return is_next and not before[-1:].isdigit() and len(numbers_in(before)) >= 2

    def is_right(self, result: str, after: str) -> bool | None:
        """Whether the next number is the result; None if no number starts within 40 characters."""
        return states_number(result, after)


class Calculator(CalculatorRules):
    """Evaluates an arithmetic expression."""

    name = "Calculator"
    description = "Evaluates an expression of numbers, + - * / and parentheses."
    takes_argument = True
    parameters = TEXT_PARAMETER
    context_fields: tuple[str, ...] = ()
    example: str | None = "1400 / 400"
    version = "2"
    """Since 1: reads digits of every script, more operators, thousands and spaces, "p% of" and a
    leading "="; rejects the readings listed above, 5$3 and more than 50 nested parentheses."""

    def __init__(self) -> None:
        self.prompt = load_prompt("calculator")

    def call(self, argument: str, context: CallContext) -> str:
        """The value, such as 35, 1.47 or 3.70.

        Raises: ToolInputRejected for anything but a bounded expression that computes something.
        """
        if len(argument) > MAX_ARGUMENT_CHARS:
            raise ToolInputRejected(
                f"expression of {len(argument)} characters; at most {MAX_ARGUMENT_CHARS}"
            )
        expression = normalise(unquote(argument))
        _check_grammar(expression)
        try:
            value: Fraction = _evaluator().eval(_in_python(expression))
        except ZeroDivisionError as error:
            raise ToolInputRejected(f"division by zero in {argument!r}") from error
        result = format_number(value)
        if sum(char.isdigit() for char in result) > MAX_RESULT_DIGITS:
            raise ToolInputRejected(f"result has more than {MAX_RESULT_DIGITS} digits")
        return result


def normalise(expression: str) -> str:
    """The expression in ASCII, as far as it has only one reading.

    Raises: ToolInputRejected if it names two currencies.
    """
    text = "".join(_plain(char) for char in expression).translate(_CHARACTERS)
    text = _GROUPED.sub(lambda match: "".join(filter(str.isdigit, match[0])), text)
    currencies = {char for char in text if unicodedata.category(char) == "Sc"}
    if len(currencies) > 1:
        raise ToolInputRejected(f"more than one currency in {expression!r}")
    for sign in currencies:
        text = text.replace(sign, " ")  # not "", which would make 53 of 5$3
    text = " ".join(text.split()).lstrip("= ").rstrip("=? ")
    return _TIMES.sub("*", text)


def _plain(char: str) -> str:
    """The ASCII digit of a decimal digit, the plain form of a wide, small or styled character."""
    if char.isdecimal():
        return str(unicodedata.decimal(char))
    form, _, code = unicodedata.decomposition(char).partition(" ")
    return chr(int(code, 16)) if form in _FORMS else char


def _check_grammar(text: str) -> None:
    """Refuse what Python's parser would refuse, or read otherwise than a person.

    Choice: checked here and not by parsing, so that the parser sees only what it accepts: its
    errors, warnings and limits differ between its versions.

    Raises: ToolInputRejected.
    """
    if not _OPERATION.search(text):
        raise ToolInputRejected(f"no operation in {text!r}; expected one of + - * /")
    if _REMAINDER.search(text):
        raise ToolInputRejected(f"% may mean percent or remainder in {text!r}")
    depths = list(accumulate((char == "(") - (char == ")") for char in text))
    if not _EXPRESSION.fullmatch(text) or min(depths) < 0 or depths[-1] != 0:
        foreign = _FOREIGN.search(text.replace("of", ""))
        unexpected = f"; {foreign[0]!r} is not expected" if foreign else ""
        raise ToolInputRejected(
            f"not arithmetic: {text!r}{unexpected}; only numbers, + - * / % and ()"
        )
    if max(depths) > MAX_NESTING:
        raise ToolInputRejected(f"more than {MAX_NESTING} nested parentheses")


def _in_python(text: str) -> str:
    """The expression with exact numbers only: 1.5 as (15/10), p% as (p%100), "of" as **."""
    exact = _OPERAND.sub(_exact, text).replace("of", "**")
    # A run of signs is one sign; else each is a level of the tree, and of the caller's stack.
    return _SIGNS.sub(lambda match: "-" if match[0].count("-") % 2 else "+", exact)


def _exact(match: re.Match[str]) -> str:
    whole, _, decimals = match[1].partition(".")
    digits = int(whole + decimals)
    number = f"({digits}/1{'0' * len(decimals)})" if decimals else str(digits)
    return f"({number}%100)" if match[2] else number


class _Percentage(Fraction):
    """A sum of percentages that nothing has been multiplied with."""


def _percentage(value: Fraction, hundred: Fraction) -> Fraction:
    return _Percentage(value / hundred)


def _add(left: Fraction, right: Fraction) -> Fraction:
    if not isinstance(right, _Percentage):
        return left + right
    if isinstance(left, _Percentage):
        return _Percentage(left + right)
    if left != 1:
        raise ToolInputRejected("a percentage of what is added? Write 200 * (1 + 10%)")
    return left + right


def _negate(value: Fraction) -> Fraction:
    return type(value)(-value)


_OPERATORS = {
    ast.Add: _add,
    ast.Sub: lambda left, right: _add(left, _negate(right)),
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: _percentage,
    ast.Pow: operator.mul,
    ast.USub: _negate,
    ast.UAdd: lambda value: value,
}


@cache  # one for all threads: making one sets the process's warning filters for a moment
def _evaluator() -> SimpleEval:
    evaluator = SimpleEval(operators=_OPERATORS, functions={}, names={})
    kinds = (ast.Expr, ast.BinOp, ast.UnaryOp)
    evaluator.nodes = {kind: evaluator.nodes[kind] for kind in kinds} | {
        ast.Constant: lambda node: Fraction(node.value)
    }
    return evaluator


def format_number(value: Fraction) -> str:
    """The value as text: an integer bare, else with exactly two decimals.

    Choice: rounded half away from zero on the exact value (the paper is silent); what rounds to
    zero is 0.00, without a sign.
    """
    if value.denominator == 1:
        return str(value.numerator)
    cents = int(abs(value) * 100 + Fraction(1, 2))
    sign = "-" if value < 0 and cents else ""
    return f"{sign}{cents // 100}.{cents % 100:02d}"
