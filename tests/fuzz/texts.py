"""Text that nobody would write: random, mutated and repeated."""

from collections.abc import Sequence
from random import Random

HOSTILE = (
    "\0 \t\n\r\x0b\x1c\x85\u00a0\u200b\u202e\u2028\ufeff\\\"'`[](){}<>->.,;:=?!*/+-%^&|~@#$_"
    "0123456789eExXjJofn\u00b2\u00bd\u00b7\u00d7\u00f7\u0663\u066b\u2044\u2212\u20ac\u20e3"
    "\ud800\udc80\udfff\U0001d7d8\U0001f600\U0010ffff"
)
"""Characters with a meaning somewhere, among them NUL, lone surrogates and the last code point."""


def random_text(rng: Random, alphabet: Sequence[str], max_chars: int = 320) -> str:
    """Mostly short text, of characters of the alphabet, any code points, or decoded bytes."""
    length = int(max_chars ** rng.random())
    draw = rng.randrange(5)
    if draw < 2:
        return "".join(rng.choices(alphabet if draw else HOSTILE, k=length))
    if draw == 2:
        top = rng.choice((0x250, 0x3000, 0x110000))
        return "".join(chr(rng.randrange(top)) for _ in range(length))
    codec, errors = (("latin-1", "strict"), ("utf-8", "surrogateescape"))[draw - 3]
    return rng.randbytes(length).decode(codec, errors)


def mutated(rng: Random, text: str, other: str, alphabet: Sequence[str]) -> str:
    """The text after one to four changes: insert, delete, duplicate, swap, splice."""
    for _ in range(rng.randint(1, 4)):
        start, end = sorted(rng.randrange(len(text) + 1) for _ in range(2))
        change = rng.randrange(5)
        if change == 0:
            char = rng.choice(rng.choice((HOSTILE, alphabet)))
            text = text[:start] + char * rng.choice((1, 1, 1, 2, 40)) + text[start:]
        elif change == 1:
            text = text[:start] + text[min(end, start + 3) :]
        elif change == 2:
            text = text[:end] + text[start:]
        elif change == 3:
            text = text[:start] + text[end : end + 1] + text[start:end] + text[end + 1 :]
        else:
            text = text[:start] + other[rng.randrange(len(other) + 1) :]
    return text


def repeated(rng: Random, fragments: Sequence[str], max_chars: int) -> str:
    """A few fragments over and over, between a head and a tail; one in fifty is really long."""
    length = max_chars if rng.randrange(50) == 0 else int(max_chars ** (rng.random() * 0.7))
    unit = "".join(rng.choices(fragments, k=rng.randint(1, 3)))
    head, tail = rng.choices(("", *fragments), k=2)
    return head + unit * (length // len(unit) + 1) + tail
