"""Linearised API calls, e(c) and e(c, r) (paper, section 2).

    e(c)    = [Name(argument)]
    e(c, r) = [Name(argument) -> result]

The special tokens are spelled with ordinary text, as in the paper: "[" starts a call, "]" ends it,
"->" precedes the result. Choice: the paper does not say what happens when an argument or a result
contains these; we escape them with a backslash, so that no tool result can forge a call and every
call is parsed back exactly.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from toolformer_core.errors import NotationError

START = "["
END = "]"
ARROW = " ->"

_ESCAPES = {"\\": "\\\\", "[": "\\[", "]": "\\]", "\n": "\\n", "\r": "\\r"}
_UNESCAPES = {"n": "\n", "r": "\r"}
_NAME = r"[A-Za-z_][A-Za-z0-9_.-]*"
# The argument ends at the first ")" that ends a call or starts a result. Nothing is ever tried
# twice (++ and *+), so that the time on any text is linear in its length.
_ARGUMENT = r"(?:[^\\\[\])]++|\\.|\)(?!\]| ->[ \]]))*+"

# An escaped bracket starts no call.
CALL_PATTERN = re.compile(rf"(?<!\\)\[{_NAME}\({_ARGUMENT}\)\] ?")
"""A call without a result, with the space that parts it from what follows."""

_CALL = re.compile(
    rf"\[(?P<tool>{_NAME})\((?P<argument>{_ARGUMENT})\)"
    r"(?: ->(?P<result>(?: (?:[^\\\[\]]++|\\.)*+)?))?\]"
)


CURRENCY = r"[$\u00a2-\u00a5\u20a0-\u20c0]"
"""One currency sign; re knows no classes of Unicode."""

# A sign belongs to the number or currency right behind it, unless it stands between two operands,
# as in "12-85" and "2019-03".
_SIGN = rf"(?:(?<![^\s(\[{{=:;,*/<>\"'])[-+\u2212\u00b1](?={CURRENCY}|\.?[0-9]))"
_ATOM = re.compile(
    rf"{_SIGN}?(?:{CURRENCY} ?(?=\.?[0-9]))?(?:(?<!\w)\.(?=[0-9]))?"
    r"[^\W_]+(?:[.,'\u2019][^\W_]+)*(?:(?<=[0-9]) ?%)?"
    rf"|{_SIGN}{CURRENCY}"
)
ATOM_REACH = 40
"""Characters in which the beginning of a word or number is looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedCall:
    """One call found in a text; `result` is None where there is no arrow."""

    tool: str
    argument: str
    result: str | None


def render_call(tool: str, argument: str) -> str:
    """e(c), the call without a result."""
    return f"[{tool}({_escape(argument)})]"


def render_call_with_result(tool: str, argument: str, result: str) -> str:
    """e(c, r), the call with its result; e(c, eps) where the result is empty."""
    return f"[{tool}({_escape(argument)}) -> {_escape(result)}]"


def parse_call(text: str) -> ParsedCall:
    """The call that the whole text spells.

    Raises: NotationError if the text is anything but one call.
    """
    match = _CALL.fullmatch(text)
    if match is None:
        raise NotationError(f"not an API call: {text!r}; expected [Name(argument) -> result]")
    result = match["result"]
    return ParsedCall(
        tool=match["tool"],
        argument=_unescape(match["argument"]),
        result=None if result is None else _unescape(result[1:]),
    )


def unquote(argument: str) -> str:
    """The argument without surrounding white space and one pair of double quotes."""
    stripped = argument.strip()
    is_quoted = len(stripped) >= 2 and stripped[0] == stripped[-1] == '"'
    return stripped[1:-1].strip() if is_quoted else stripped


def _escape(text: str) -> str:
    escaped = "".join(_ESCAPES.get(char, char) for char in text)
    return escaped.replace("->", "-\\>")


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", lambda match: _UNESCAPES.get(match[1], match[1]), text)


def insertion(text: str, char_offset: int, call: str) -> tuple[str, str, str]:
    """The call with the spaces it needs at this place: (before, call, after).

    One space parts the call from its neighbours: the text's own where it has one, else an
    inserted one at a word boundary. Removing before + call + after gives the text back.
    """
    left, right = text[:char_offset], text[char_offset:]
    left_open = not left or left[-1].isspace()
    right_open = not right or right[0].isspace()
    if right_open:
        return ("" if left_open else " ", call, "")
    return ("", call, " " if left_open else "")


def inner_offsets(text: str) -> Iterator[int]:
    """The character offsets inside a word, or inside a number with its sign, currency and %."""
    for atom in _ATOM.finditer(text):
        yield from range(atom.start() + 1, atom.end())


def is_place(before: str, after: str) -> bool:
    """Whether a call may stand between two pieces of text, the rule of annotator and decoder.

    Choice: not inside what `inner_offsets` knows, and not behind a space (the place before the
    space gives the same text).
    """
    near = before[-ATOM_REACH:]
    return not before.endswith(" ") and len(near) not in inner_offsets(near + after[:ATOM_REACH])
