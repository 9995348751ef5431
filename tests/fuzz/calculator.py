"""The Calculator: any text is answered or rejected, and no answer is wrong."""

import ast
import operator
import re
import sys
import unicodedata
from fractions import Fraction
from random import Random

from hypothesis import strategies as st

from tests.fuzz import texts
from tests.fuzz.expressions import MAX_DEPTH, SPACES, answer_of, written
from tests.fuzz.harness import Case, Wrong
from toolformer_core.errors import ToolInputRejected
from toolformer_core.tools.base import NO_DOCUMENT
from toolformer_core.tools.calculator import MAX_ARGUMENT_CHARS, Calculator

CALCULATOR = Calculator()

ALPHABET = "0123456789.,+-*/()% ='x$\u00d7\u00f7\u2212\u00a0\u20ac\uff11\u0661\u066b\u200b"
FRAGMENTS = (
    *("1", "9", "0", "1.", ".1", "1,000", "1%", "10% of ", "(", ")", "()", "(1", "1)", "1+", "+"),
    *("-", "--", "*", "**", "/", "//", "1/", "/7", "*9", "1 ", " ", "=", "\u00b2", "\u00bd", ","),
    *("1(", "(1)(", "((1+1)", "1-(", "99999999*", "/99999989", "$", "x", " x ", "\0", "\ud800"),
)
AMBIGUOUS = (
    *("0,{ddd}", "0{d},{ddd}", "{d},{dd}", "{d},{ddd},{dd}", "{d}.{ddd},{d}", "{d}.{d},{ddd}"),
    *("{d} {ddd}", "{d}'{dd}", "{d}_{ddd}", "{d},{ddd}\u00a0{ddd}", "{ddd}\u00a0{d}", "{d}:{dd}"),
    *("{d}\u00b7{dd}", "{d}\u2044{dd}", "{d}e{d}", "0x{dd}", "{d}$ {dd}", "{d}\u20ac{dd}", "{d}%%"),
    *("{odd}", "{d}{odd}", "{odd}{dd}", "{d}.{odd}", "{d}{odd}{ddd}", "{odd} {d}", "{d} {odd}"),
)
NUMERALS = [
    char
    for char in map(chr, range(sys.maxunicode + 1))
    if char.isnumeric() and not char.isdecimal()
]
"""Superscripts, fractions, circled, Roman and Chinese numerals."""

MARKS = [
    char
    for char in map(chr, range(0x300, 0x3000))
    if unicodedata.category(char) in ("Mn", "Me", "Cf", "Cc") and not char.isspace()
    if char not in SPACES
]
"""What is invisible or sits on the character before it."""

ANSWER = re.compile(r"-?[0-9]+(\.[0-9][0-9])?")
PLAIN = re.compile(r"[-+*/(). 0-9]+")
OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def answer(text: str) -> str | None:
    """The Calculator's answer, or None if it rejects the text; any other error is a finding."""
    try:
        return CALCULATOR.call(text, NO_DOCUMENT)
    except ToolInputRejected as rejection:
        if not str(rejection).isprintable():
            raise Wrong(f"rejected for {rejection}") from rejection
        return None


def valid(rng: Random) -> Case:
    """An expression whose value is known from its tree."""
    case = written(rng)

    def check(result: object) -> str:
        if result != case.answer:
            raise Wrong(f"answered {result!r}, expected {case.answer!r}")
        return "refused as documented" if result is None else "compared"

    return Case(text=case.text, run=lambda: answer(case.text), check=check)


def mutated(rng: Random) -> Case:
    """A valid expression with a few changes."""
    is_plain = rng.randrange(2) == 0
    first, second = (written(rng, is_plain=is_plain).text for _ in range(2))
    return unknown(texts.mutated(rng, first, second, ALPHABET))


def random(rng: Random) -> Case:
    """Random characters, code points or decoded bytes."""
    return unknown(texts.random_text(rng, ALPHABET))


def repeated(rng: Random) -> Case:
    """A few fragments over and over: deep, long or both; mostly within the cap on length."""
    text = texts.repeated(rng, FRAGMENTS, 2000)
    if rng.randrange(10):
        text = text[: 300 - rng.randrange(3)]
    is_closed = rng.randrange(2) and len(text) <= 300
    return unknown(text[:150] + ")" * text[:150].count("(") if is_closed else text)


def ambiguous(rng: Random) -> Case:
    """A sum in which one number has two readings, or is none but looks like one."""
    number = rng.choice(AMBIGUOUS).format(
        d=rng.randint(1, 9),
        dd=rng.randint(10, 99),
        ddd=rng.randint(100, 999),
        odd=rng.choice(rng.choice((NUMERALS, MARKS))),
    )
    pair = [number, str(rng.randint(1, 99))][:: rng.choice((1, -1))]
    text = f" {rng.choice('+-*/')} ".join(pair)

    def check(result: object) -> str:
        if result is not None:
            raise Wrong(f"answered {result!r}, expected a rejection")
        return "refused as documented"

    return Case(text=text, run=lambda: answer(text), check=check)


def unknown(text: str) -> Case:
    """A text that may be an expression; if it is in plain ASCII, Python says what it is worth."""

    def check(result: object) -> str:
        if PLAIN.fullmatch(text):
            expected = answer_by_python(text)
            if result != expected:
                raise Wrong(f"answered {result!r}; by Python's parser {expected!r}")
            return "rejected" if result is None else "compared"
        if result is None:
            return "rejected"
        assert isinstance(result, str)
        if not ANSWER.fullmatch(result) or len(result.strip("-").replace(".", "")) > 30:
            raise Wrong(f"answered {result!r}, which is no number or too long")
        return "answered"

    return Case(text=text, run=lambda: answer(text), check=check)


def answer_by_python(text: str) -> str | None:
    """The answer to a text of digits, points, parentheses, + - * / and spaces, None if rejected."""
    source = re.sub(r"(?<![0-9.])0+(?=[0-9])", "", text).strip()
    depth = deepest = 0
    for char in source:
        depth += (char == "(") - (char == ")")
        deepest = max(deepest, depth)
    if len(text) > 300 or deepest > MAX_DEPTH:
        return None
    try:
        tree = ast.parse(source, mode="eval").body
    except (SyntaxError, MemoryError):
        return None
    if not any(isinstance(node, ast.BinOp) for node in ast.walk(tree)):
        return None
    try:
        result = answer_of(_value(tree, source))
    except (ZeroDivisionError, KeyError):
        return None
    return result if len(result.strip("-").replace(".", "")) <= 30 else None


def _value(node: ast.expr, source: str) -> Fraction:
    """Raises KeyError for anything but the four operations and signs."""
    if isinstance(node, ast.Constant):
        if node.value is Ellipsis:
            raise KeyError("...")
        return Fraction(source[node.col_offset : node.end_col_offset])
    if isinstance(node, ast.UnaryOp):
        value = _value(node.operand, source)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp):
        operate = OPERATORS[type(node.op)]
        return operate(_value(node.left, source), _value(node.right, source))
    raise KeyError(type(node).__name__)


kinds = {
    "valid": valid,
    "ambiguous": ambiguous,
    "mutated": mutated,
    "random": random,
    "repeated": repeated,
}
strategy = st.one_of(
    st.text(max_size=320).map(unknown),
    st.text(alphabet=ALPHABET, max_size=60).map(unknown),
    st.binary(max_size=320).map(lambda raw: unknown(raw.decode("latin-1"))),
    st.binary(max_size=320).map(lambda raw: unknown(raw.decode("utf-8", "surrogateescape"))),
    st.randoms(use_true_random=False).map(valid),
)


def size(text: str) -> int:
    """What is longer than 300 characters is refused unread."""
    return len(text) if len(text) <= MAX_ARGUMENT_CHARS else 0


def growth() -> list[tuple[str, float]]:
    """Nothing: a long text is rejected by its length."""
    return []
