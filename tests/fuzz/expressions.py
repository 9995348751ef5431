"""Valid expressions with their value, in the many forms in which people write them.

The value comes from the generated tree, by fractions, and never from the text. None stands for
what the Calculator documents that it refuses.
"""

import sys
import unicodedata
from dataclasses import dataclass
from fractions import Fraction
from random import Random

MAX_DEPTH = 50

ZEROS = [
    point
    for point in range(sys.maxunicode + 1)
    if unicodedata.category(chr(point)) == "Nd" and unicodedata.digit(chr(point)) == 0
]
CURRENCIES = [
    chr(point) for point in range(sys.maxunicode + 1) if unicodedata.category(chr(point)) == "Sc"
]
SPELLINGS = {
    "+": "++++\uff0b\ufe62\u2795\ufb29",
    "-": "----\u2212\u2013\u2010\u2011\uff0d\ufe63\u2796\u2052",
    "*": "****\u00d7\u22c5\u2217\u2219\u2715\u2716\u2a2f\uff0a\ufe61xX\u00b7\u2022",
    "/": "////\u00f7\u2215\uff0f\u2797",
    "(": "(((\uff08\ufe59",
    ")": ")))\uff09\ufe5a",
    "%": "%%%\uff05\ufe6a\u066a",
    ".": "...\uff0e\ufe52\u066b",
    ",": ",,,\uff0c\ufe50\u066c",
    "=": "===\uff1d\ufe66",
}
NEEDS_SPACE = "xX\u00b7\u2022"
SPACES = [
    *"      \t\n\r\x0b\x0c\x1c\x1f\x85\u00a0\u1680\u2003\u2007\u2009\u2028\u2029\u202f\u205f\u3000",
    *"\u200b\u200c\u200d\u200e\u200f\u2060\u061c\ufe0e\ufe0f\ufeff",
]
THOUSANDS = [",", ",", "'", "\u2019", "\u00a0", "\u2007", "\u2009", "\u202f", "\uff07"]


@dataclass(frozen=True, slots=True)
class Tree:
    """A part of an expression: tokens, the value or None, and what decides on the whole."""

    tokens: tuple[str, ...]
    value: Fraction | None
    is_percent: bool = False  # a sum of percentages, of nothing yet
    depth: int = 0


@dataclass(frozen=True, slots=True)
class Written:
    """An expression, and the text of its value or None if it is refused."""

    text: str
    answer: str | None


def written(rng: Random, *, is_plain: bool = False) -> Written:
    """A random expression with at least one operation; in ASCII if it is to be plain."""
    tree = rng.choice((_plain, _plain, _plain, _chain, _quotients, _nested, _signs))(rng)
    text = _render(tree.tokens, _Pen(rng, is_plain))
    refused = tree.value is None or tree.depth > MAX_DEPTH or len(text) > 300
    answer = None if refused else answer_of(tree.value)
    is_long = answer is not None and len(answer.strip("-").replace(".", "")) > 30
    return Written(text, None if is_long else answer)


def answer_of(value: Fraction) -> str:
    """A bare integer, else two decimals, half away from zero."""
    if value.denominator == 1:
        return str(value.numerator)
    whole, rest = divmod(abs(value.numerator) * 100, value.denominator)
    cents = str(whole + (2 * rest >= value.denominator)).zfill(3)
    return ("-" if value < 0 and int(cents) else "") + f"{cents[:-2]}.{cents[-2:]}"


def _plain(rng: Random) -> Tree:
    return _folded(rng, "+-*/", [_factor(rng, 3) for _ in range(rng.randint(2, 4))])


def _chain(rng: Random) -> Tree:
    operators = rng.choice(("+", "-", "+-", "+-*", "+-*/"))
    return _folded(
        rng, operators, [_number(rng, 9) for _ in range(int(150 ** rng.uniform(0.4, 1)))]
    )


def _quotients(rng: Random) -> Tree:
    numbers = [_number(rng, 10 ** rng.randint(2, 6)) for _ in range(rng.randint(5, 50))]
    return _folded(rng, "/*/", numbers)


def _nested(rng: Random) -> Tree:
    tree = _folded(rng, "+-*/", [_number(rng, 99), _number(rng, 99)])
    for _ in range(rng.randint(1, 60)):
        tree = _group(tree)
        if rng.randrange(3) == 0:
            pair = [tree, _number(rng, 9)]
            tree = _folded(rng, "+-*/", pair[:: rng.choice((1, -1))])
    return tree


def _signs(rng: Random) -> Tree:
    signed = _negated(_number(rng, 99), [rng.choice("+-") for _ in range(rng.randint(1, 200))])
    return _folded(rng, "+-*/", [_number(rng, 99), signed])


def _factor(rng: Random, room: int) -> Tree:
    signs = rng.choices("+-", k=rng.choice((0, 0, 0, 1, 2)))
    draw = rng.randrange(10)
    if draw < 5 or room == 0:
        return _negated(_number(rng, 10 ** rng.randint(1, 12)), signs)
    if draw < 7:
        return _negated(_percent(rng), signs)
    if draw < 8:
        return _negated(_share(_percent(rng), _factor(rng, room - 1)), signs)
    parts = [_factor(rng, room - 1) for _ in range(rng.randint(1, 3))]
    return _negated(_group(_folded(rng, "+-*/", parts)), signs)


def _number(rng: Random, top: int) -> Tree:
    whole = rng.choice(("", *[str(rng.randrange(top)) for _ in range(5)]))
    if rng.randrange(60) == 0:
        whole = str(rng.randrange(10**40))
    decimals = "".join(rng.choices("0123456789", k=rng.choice((0, 0, 1, 2, 2, 5, 12))))
    whole = whole or ("" if decimals else "7")
    value = Fraction(int((whole + decimals) or "0"), 10 ** len(decimals))
    return Tree((f"{whole}.{decimals}",), value)


def _percent(rng: Random) -> Tree:
    number = _number(rng, 200)
    assert number.value is not None
    return Tree((*number.tokens, "%"), number.value / 100, is_percent=True)


def _share(percent: Tree, whole: Tree) -> Tree:
    is_known = percent.value is not None and whole.value is not None
    value = percent.value * whole.value if is_known else None
    return Tree((*percent.tokens, "of", *whole.tokens), value, depth=whole.depth)


def _group(tree: Tree) -> Tree:
    return Tree(("(", *tree.tokens, ")"), tree.value, tree.is_percent, tree.depth + 1)


def _negated(tree: Tree, signs: list[str]) -> Tree:
    is_negative = signs.count("-") % 2 and tree.value is not None
    value = -tree.value if is_negative else tree.value
    return Tree(
        (*(f"sign{sign}" for sign in signs), *tree.tokens), value, tree.is_percent, tree.depth
    )


def _folded(rng: Random, operators: str, parts: list[Tree]) -> Tree:
    """The parts joined by random operators: products first, then sums, each from the left."""
    symbols = rng.choices(operators, k=len(parts) - 1)
    terms, between = [parts[0]], []
    for symbol, part in zip(symbols, parts[1:], strict=True):
        if symbol in "*/":
            terms[-1] = _joined(terms[-1], symbol, part, _product(terms[-1], symbol, part))
        else:
            between.append(symbol)
            terms.append(part)
    total = terms[0]
    for symbol, term in zip(between, terms[1:], strict=True):
        total = _joined(total, symbol, term, _sum(total, symbol, term))
    return total


def _joined(left: Tree, symbol: str, right: Tree, value: Fraction | None) -> Tree:
    is_percent = symbol in "+-" and left.is_percent and right.is_percent
    tokens = (*left.tokens, symbol, *right.tokens)
    return Tree(tokens, value, is_percent, max(left.depth, right.depth))


def _product(left: Tree, symbol: str, right: Tree) -> Fraction | None:
    if left.value is None or right.value is None or (symbol == "/" and right.value == 0):
        return None
    return left.value * right.value if symbol == "*" else left.value / right.value


def _sum(left: Tree, symbol: str, right: Tree) -> Fraction | None:
    if left.value is None or right.value is None:
        return None
    if right.is_percent and not left.is_percent and left.value != 1:
        return None  # a percentage of what?
    return left.value + right.value if symbol == "+" else left.value - right.value


class _Pen:
    """Writes tokens in one hand: plain or fancy, tight or wide, with or without a currency."""

    def __init__(self, rng: Random, is_plain: bool) -> None:
        self.rng = rng
        self.is_fancy = not is_plain and rng.randrange(3) > 0
        self.most_spaces = rng.choice((0, 0, 1, 1, 3))
        self.currency = rng.choice(CURRENCIES) if self.is_fancy and rng.randrange(3) == 0 else ""

    def spelled(self, token: str) -> str:
        return self.rng.choice(SPELLINGS[token]) if self.is_fancy else token

    def spaces(self, least: int = 0) -> str:
        number = max(least, self.rng.randint(0, self.most_spaces))
        return "".join(self.rng.choices(SPACES if self.is_fancy else " ", k=number))

    def operator(self, symbol: str, *, keeps_apart: bool) -> str:
        spelling = self.spelled(symbol)
        least = int(spelling in NEEDS_SPACE)
        return self.spaces(least) + spelling + self.spaces(max(least, keeps_apart))

    def number(self, token: str) -> str:
        whole, _, decimals = token.partition(".")
        whole = self._grouped(whole)
        point = self.spelled(".") if decimals or (whole and self.rng.randrange(20) == 0) else ""
        text = whole + point + decimals
        if self.is_fancy:
            zero = self.rng.choice((0x30, 0xFF10, 0x660, self.rng.choice(ZEROS)))
            text = "".join(chr(zero + int(char)) if char.isdigit() else char for char in text)
        return text

    def _grouped(self, whole: str) -> str:
        if not self.is_fancy or self.rng.randrange(2) or whole.startswith("0") or len(whole) < 4:
            is_padded = self.is_fancy and whole and self.rng.randrange(10) == 0
            return "00" + whole if is_padded else whole
        mark = self.rng.choice(THOUSANDS)
        mark = self.spelled(",") if mark == "," else mark
        is_indian = mark == "," and self.rng.randrange(2)
        head, groups = whole[:-3], [whole[-3:]]
        while head:
            size = 2 if is_indian else 3
            head, group = head[:-size], head[-size:]
            groups.insert(0, group)
        return mark.join(groups)

    def priced(self, number: str) -> str:
        if not self.currency or self.rng.randrange(2):
            return number
        pair = (self.currency, number)[:: self.rng.choice((1, -1))]
        return self.spaces().join(pair)


def _render(tokens: tuple[str, ...], pen: _Pen) -> str:
    rng = pen.rng
    parts = [pen.spaces(), rng.choice(("", "", "", pen.spelled("="))), pen.spaces()]
    is_parted = False  # "7 % -3" may be a remainder, "7 % - 3" may not
    for token, following in zip(tokens, (*tokens[1:], ""), strict=True):
        if token == "%":
            gap = pen.spaces()
            is_parted = gap != ""
            parts += [gap, pen.spelled("%")]
        elif token == "of":
            parts += [pen.spaces(), "of", pen.spaces(least=following != "(")]
        elif token in ("+", "-", "*", "/"):
            parts.append(pen.operator(token, keeps_apart=is_parted))
            is_parted = False
        elif token in ("(", ")", "sign+", "sign-"):
            parts += [pen.spelled(token[-1]), pen.spaces()]
        else:
            parts.append(pen.number(token) if following == "%" else pen.priced(pen.number(token)))
    end = rng.choice(("", "", pen.spelled("="), pen.spelled("=") + pen.spaces() + "?"))
    text = "".join((*parts, pen.spaces(), end, pen.spaces()))
    return f'"{text}"' if rng.randrange(10) == 0 else text
