"""Calculator: the four operations on numbers, rounded to two decimals (paper, section 2).

Arithmetic is exact, over fractions, so that no digit comes from a float. The argument is parsed
by simpleeval with nothing but numbers, + - * / and signs allowed; it is never evaluated as code.

Source: only + - * /; integers bare, else two decimals with trailing zero (Appendix A).
Choice: we read what people write: thousands commas, currency signs, percent, typographic operators
and fullwidth forms. Not full NFKC: it would turn a superscript two into the digit 2.
Departs: the paper's calculator returns nothing for bad syntax; we reject with a reason.
"""

import ast
import operator
import re
import unicodedata
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any

from simpleeval import InvalidExpression, SimpleEval

from toolformer_core.errors import ToolInputRejected
from toolformer_core.notation import unquote
from toolformer_core.tools.base import NUMBER_PATTERN, CallContext, load_prompt, numbers_in

MAX_ARGUMENT_CHARS = 300
MAX_RESULT_DIGITS = 30
CHECKED_CHARS = 40

_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
_NODES = (ast.Expr, ast.BinOp, ast.UnaryOp)

_CHARACTERS = str.maketrans(
    {chr(0xFF00 + offset): chr(0x20 + offset) for offset in range(1, 0x5F)}  # fullwidth forms
    | {"\u00d7": "*", "\u22c5": "*", "\u2217": "*", "\u00f7": "/", "\u2215": "/", "\u2044": "/"}
    | {"\u2212": "-", "\u2013": "-", "\u2010": "-", "\u2011": "-"}
)
_TIMES = re.compile(r"(?<=[0-9)]) +[xX] +(?=[0-9(.-])")
_THOUSANDS = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9,])")
_LEADING_ZEROS = re.compile(r"(?<![0-9.])0+(?=[0-9])")
_PERCENT = re.compile(r"([0-9]*\.?[0-9]+)\s*%(?!\s*[0-9.(])")
_TRAILING = re.compile(r"[=?\s]+$")
_OPERATION = re.compile(r"[0-9.)%]\s*[-+*/]")
_ALLOWED = re.compile(r"[-+*/().0-9 ]+")
_NEXT_NUMBER = re.compile(r"[ \t]*[-\u2212]?[$\u20ac\u00a3\u00a5]?[ ]?\.?[0-9]")
_STATED = re.compile(
    rf"(?<![\w.])(?P<sign>[-\u2212]?)[$\u20ac\u00a3\u00a5]?\s?(?P<number>{NUMBER_PATTERN})"
)


class Calculator:
    """Evaluates an arithmetic expression."""

    name = "Calculator"
    description = "Evaluates an expression of numbers, + - * / and parentheses."
    takes_argument = True
    version = "1"

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
        result = format_number(_evaluate(normalise(unquote(argument))))
        if sum(char.isdigit() for char in result) > MAX_RESULT_DIGITS:
            raise ToolInputRejected(f"result has more than {MAX_RESULT_DIGITS} digits")
        return result

    def can_help_at(self, before: str, after: str, context: CallContext) -> bool:
        """Whether two numbers stand before the place, none ends at it, and one comes next."""
        is_next = _NEXT_NUMBER.match(after) is not None
        return is_next and not before[-1:].isdigit() and len(numbers_in(before)) >= 2

    def is_right(self, result: str, after: str) -> bool | None:
        """Whether the next number is the result; None if no number starts within 40 characters."""
        stated = _STATED.search(after)
        if stated is None or stated.start("number") >= CHECKED_CHARS:
            return None
        try:
            return _signed(stated) == Decimal(result)
        except InvalidOperation:  # a result that was cut to nothing but a sign
            return None


def normalise(expression: str) -> str:
    """The expression in plain ASCII arithmetic.

    Raises: ToolInputRejected if it holds anything else, or no operation at all.
    """
    text = expression.translate(_CHARACTERS)
    text = "".join(char for char in text if unicodedata.category(char) != "Sc")
    text = _TRAILING.sub("", text)
    text = _THOUSANDS.sub(lambda match: match[0].replace(",", ""), text)
    text = " ".join(_TIMES.sub("*", text).split())
    if not _OPERATION.search(text):
        raise ToolInputRejected(f"no operation in {expression!r}; expected one of + - * /")
    text = _LEADING_ZEROS.sub("", _PERCENT.sub(r"(\1/100)", text))
    if not _ALLOWED.fullmatch(text):
        raise ToolInputRejected(f"not arithmetic: {expression!r}; only numbers, + - * / and ()")
    return text


def _evaluate(expression: str) -> Fraction:
    """The exact value.

    Raises: ToolInputRejected for bad syntax, another operator or a division by zero.
    """

    def number(node: ast.Constant) -> Fraction:
        return Fraction(ast.get_source_segment(expression, node) or "")  # no float on the way

    evaluator = SimpleEval(operators=_OPERATORS, functions={}, names={})
    evaluator.nodes = {kind: evaluator.nodes[kind] for kind in _NODES} | {ast.Constant: number}
    try:
        value: Any = evaluator.eval(expression)  # Any: simpleeval is untyped
    except ZeroDivisionError as error:
        raise ToolInputRejected(f"division by zero in {expression!r}") from error
    except (InvalidExpression, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        # Only the kind of error: the messages differ between runs and versions of Python.
        kind = type(error).__name__
        raise ToolInputRejected(f"cannot evaluate {expression!r}: {kind}") from error
    assert isinstance(value, Fraction)
    return value


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


def _signed(stated: re.Match[str]) -> Decimal:
    number = Decimal(stated["number"].replace(",", ""))
    return -number if stated["sign"] else number
