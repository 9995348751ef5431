"""The call notation: nothing forges a call, every call is parsed back, time stays linear."""

import re
from random import Random

from hypothesis import strategies as st

from tests.fuzz import texts
from tests.fuzz.harness import Case, Wrong, doubling
from toolformer_core.errors import NotationError
from toolformer_core.notation import (
    CALL_PATTERN,
    ParsedCall,
    insertion,
    parse_call,
    render_call,
    render_call_with_result,
    unquote,
)

FRAGMENTS = (
    *("[", "]", "(", ")", "->", " -> ", " ->", "\\", "\\\\", "\\n", "\n", "\r", "\u2028", "\0"),
    *("[Calculator(", "[A(", "\\[A(", ")]", ")] ", ") -> ", ") ->]", ") -> 91]", "-", ">", "-\\>"),
    *("a", "_", "\u00e9", "\U0001f600", "\ud800", '"', " ", "\\[", "\\]", "[Calculator(1 + 1)]"),
    *("[A(x) -> y(z)]", "] [QA(x) -> y]", "\\\n", "n"),
)
ALPHABET = "[]()\\->< \n\rnAx1"
FIRST = "ABCXYZabcxyz_"
LATER = FIRST + "0123456789.-"
GROWING = {
    "[A( ...": lambda chars: "[A(" * (chars // 3),
    "\\[A( ...": lambda chars: "\\[A(" * (chars // 4),
    "[A( and \\[A( ...": lambda chars: "[A(" + "\\[A(" * (chars // 4),
    "[A( and ) ->  ...": lambda chars: "[A(" + ") -> " * (chars // 5),
    "[A( and ) ->] ...": lambda chars: "[A(" + ") ->]" * (chars // 5),
    "[A( and )] ...": lambda chars: "[A(" + ")]" * (chars // 2),
    "[A( and ) ...": lambda chars: "[A(" + ")" * chars,
    "backslashes": lambda chars: "\\" * chars,
    "[A( and backslashes": lambda chars: "[A(" + "\\" * chars,
    "a long call": lambda chars: f"[A({'a' * (chars // 2)}) -> {'b' * (chars // 2)}]",
    "a long name": lambda chars: "[" + "A" * chars,
    "[ ...": lambda chars: "[" * chars,
    "-> ...": lambda chars: "->" * (chars // 2),
}
SIZES = (100_000, 200_000, 400_000, 800_000)


def parsed(text: str) -> ParsedCall | None:
    """The call, or None if the text is none; any other error is a finding."""
    try:
        return parse_call(text)
    except NotationError:
        return None


def rendered(rng: Random) -> Case:
    """A call with any argument and result, put into any text."""
    tool = rng.choice(FIRST) + "".join(rng.choices(LATER, k=rng.randrange(9)))
    argument, result, text = (_piece(rng) for _ in range(3))
    return round_trip(tool, argument, result, text, rng.randint(0, len(text)))


def round_trip(tool: str, argument: str, result: str, text: str, at: int) -> Case:
    """Render, find, parse and insert one call."""

    def run() -> tuple[str, str, list[str], list[str], ParsedCall, ParsedCall, list[str]]:
        bare, full = render_call(tool, argument), render_call_with_result(tool, argument, result)
        found = CALL_PATTERN.findall(bare), CALL_PATTERN.findall(full)
        return bare, full, *found, parse_call(bare), parse_call(full), [*insertion(text, at, full)]

    def check(outcome: object) -> str:
        assert isinstance(outcome, tuple)
        bare, full, found_bare, found_full, call, call_with_result, pieces = outcome
        _same(call, ParsedCall(tool=tool, argument=argument, result=None))
        _same(call_with_result, ParsedCall(tool=tool, argument=argument, result=result))
        _same((found_bare, found_full), ([bare], []))
        _same((marks(bare), marks(full)), ((1, 1, 0), (1, 1, 1)))
        _same(CALL_PATTERN.sub("", f"so {bare} it is"), "so it is")
        before, middle, after = pieces
        whole = text[:at] + before + middle + after + text[at:]
        start, end = at + len(before), at + len(before) + len(middle)
        _same(whole[start:end], full)
        _same(whole[:at] + whole[end + len(after) :], text)
        _same(unquote(f' "{argument}" '), argument.strip())
        return "compared"

    return Case(text=f"{tool} | {argument} | {result} | {text}", run=run, check=check)


def marks(text: str) -> tuple[int, int, int]:
    """How many "[", "]" and "->" no backslash guards; line ends are not allowed at all."""
    plain, at = "", 0
    while at < len(text):
        is_guarded = text[at] == "\\"
        plain += "_" if is_guarded else text[at]
        at += 2 if is_guarded else 1
    if "\n" in text or "\r" in text or not text.startswith("[") or not plain.endswith("]"):
        raise Wrong(f"{text!r} is not one line between brackets")
    return plain.count("["), plain.count("]"), plain.count("->")


def mutated(rng: Random) -> Case:
    """A rendered call with a few changes."""
    first, second = (render_call_with_result("QA", _piece(rng), _piece(rng)) for _ in range(2))
    return hostile(texts.mutated(rng, first, second, ALPHABET))


def random(rng: Random) -> Case:
    """Random characters, code points or decoded bytes, sometimes between the marks of a call."""
    text = texts.random_text(rng, ALPHABET, 600)
    return hostile(rng.choice(("{}", "[A({})]", "[A({}]", "[A(x) -> {}]")).format(text))


def repeated(rng: Random) -> Case:
    """A few fragments over and over, up to 60,000 characters."""
    return hostile(texts.repeated(rng, FRAGMENTS, 60_000))


def hostile(text: str) -> Case:
    """A text that may be a call or hold some."""

    def run() -> tuple[ParsedCall | None, list[str], str, str]:
        return parsed(text), CALL_PATTERN.findall(text), CALL_PATTERN.sub("", text), unquote(text)

    def check(outcome: object) -> str:
        assert isinstance(outcome, tuple)
        call, found, _, unquoted = outcome
        for match in found:
            inner = parsed(match.removesuffix(" "))
            if inner is None or inner.result is not None:
                raise Wrong(f"CALL_PATTERN finds {match!r}, which is no call without a result")
        if unquoted not in text or len(unquoted) > len(text.strip()):
            raise Wrong(f"unquote adds something: {unquoted!r}")
        if call is None:
            return "refused"
        again = render_call_with_result(call.tool, call.argument, call.result or "")
        _same(
            parse_call(again),
            ParsedCall(tool=call.tool, argument=call.argument, result=call.result or ""),
        )
        return "compared"

    return Case(text=text, run=run, check=check)


def _piece(rng: Random) -> str:
    """Text for an argument, a result or a document, often with parts of the notation."""
    if rng.randrange(3) == 0:
        return texts.random_text(rng, ALPHABET, 120)
    return "".join(rng.choices(FRAGMENTS, k=rng.randrange(8)))


def _same(found: object, expected: object) -> None:
    if found != expected:
        raise Wrong(f"{found!r} instead of {expected!r}")


size = len
kinds = {"rendered": rendered, "mutated": mutated, "random": random, "repeated": repeated}
_ANY = st.one_of(
    st.text(max_size=60),
    st.text(alphabet=ALPHABET, max_size=60),
    st.lists(st.sampled_from(FRAGMENTS), max_size=8).map("".join),
    st.binary(max_size=60).map(lambda raw: raw.decode("utf-8", "surrogateescape")),
)
_TOOLS = st.from_regex(re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,8}"), fullmatch=True)
strategy = st.one_of(
    _ANY.map(hostile),
    st.builds(lambda a, b: hostile(f"[QA({a}) -> {b}]"), _ANY, _ANY),
    st.builds(
        lambda tool, argument, result, text, at: round_trip(
            tool, argument, result, text, min(at, len(text))
        ),
        *(_TOOLS, _ANY, _ANY, _ANY, st.integers(0, 60)),
    ),
)


def growth() -> list[tuple[str, float]]:
    """Each pattern with the most that a doubling multiplied the time by; linear is 2."""

    def work(text: str) -> None:
        parsed(text)
        CALL_PATTERN.sub("", text)
        render_call("QA", text)

    return [(name, doubling(work, make, SIZES)) for name, make in GROWING.items()]
