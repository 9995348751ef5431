"""Which documents are worth trying with a tool (paper, Appendix A).

A rule looks at the document alone and costs no forward pass. Calculator: three numbers near one
another, one the result of an operation on the others ("operation"); or a phrase such as "total of"
before a number ("phrase"); or merely three numbers, of which one document in a hundred is kept
("sampled"). Calendar: a date is known ("dated"). MT: a piece of a paragraph is in another language,
between English ones ("foreign"). The paper gives none for the search tool.
"""

import itertools
import re
from collections.abc import Callable
from decimal import Decimal

from toolformer_core.notation import CURRENCY
from toolformer_core.records import Document, digest
from toolformer_core.tools.base import NUMBER_PATTERN, numbers_in
from toolformer_core.tools.language_id import ENGLISH, detect_language
from toolformer_core.user_code import load_function, source_digest

Heuristic = Callable[[Document], bool | str | None]
"""A user's own: a text names the rule by which a document qualifies, true is "custom"."""

_SETTING = "sample.document_heuristic"

WINDOW_TOKENS = 100
SAMPLED_SHARE = 0.01
MAX_NUMBERS_IN_WINDOW = 30
CHUNK_TOKENS = 10
MIN_LANGUAGE_CONFIDENCE = 0.8

_PHRASE = re.compile(
    r"(?:=|\b(?:equals|equal to|total of|average of))\s*"
    rf"[-\u2212]?{CURRENCY}?(?:{NUMBER_PATTERN})",
    re.IGNORECASE,
)


def document_rule(spec: str, tool: str, document: Document, seed: int) -> str | None:
    """The rule by which a document qualifies for a tool; None if it does not.

    `spec` is "none" (every document does, by "any"), "paper", or MODULE:FUNCTION of the user's.
    Raises: ConfigError for any other.
    """
    if spec == "none":
        return "any"
    if spec == "paper":
        return _PAPER.get(tool, _any)(document, seed)
    verdict = _own(spec)(document)
    return verdict if isinstance(verdict, str) and verdict else "custom" if verdict else None


def check_heuristic(spec: str) -> None:
    """Nothing, if the setting names a heuristic.

    Raises: ConfigError if it does not.
    """
    if spec not in ("none", "paper"):
        _own(spec)


def heuristic_digest(spec: str) -> str:
    """What identifies the heuristic beside its name: the source of a user's own module."""
    if spec in ("none", "paper"):
        return ""
    return source_digest(_own(spec))


def _own(spec: str) -> Heuristic:
    found: Heuristic = load_function(spec, _SETTING, "none, paper or MODULE:FUNCTION")
    return found


def _any(document: Document, seed: int) -> str | None:
    return "any"


def _calendar(document: Document, seed: int) -> str | None:
    return None if document.date is None else "dated"


def _calculator(document: Document, seed: int) -> str | None:
    if has_operation(document.text):
        return "operation"
    if _PHRASE.search(document.text):
        return "phrase"
    draw = int(digest(seed, "heuristic", document.document_id), 16) / 16**16
    is_drawn = draw < SAMPLED_SHARE and len(numbers_in(document.text)) >= 3
    return "sampled" if is_drawn else None


def has_operation(text: str) -> bool:
    """Whether of three numbers within 100 tokens one is the result of + - * / on the others.

    Choice: tokens are split at white space; a quotient also counts where it is stated rounded to
    its own number of decimals. Of a window crowded with numbers the last thirty are tried.
    """
    near: list[tuple[int, Decimal]] = []
    for position, word in enumerate(text.split()):
        near = [(p, n) for p, n in near if p > position - WINDOW_TOKENS]
        for number in numbers_in(word):
            earlier = [n for _, n in near][-MAX_NUMBERS_IN_WINDOW:]
            if any(_is_triple(a, b, number) for a, b in itertools.combinations(earlier, 2)):
                return True
            near.append((position, number))
    return False


def _is_triple(a: Decimal, b: Decimal, c: Decimal) -> bool:
    """Whether one of the three is the result of an operation on the other two."""
    return any(
        x + y == z or x * y == z or _is_quotient(x, y, z)
        for x, y, z in itertools.permutations((a, b, c))
    )


def _is_quotient(x: Decimal, y: Decimal, z: Decimal) -> bool:
    """Whether x / y is z to as many decimals as z states, and z states some."""
    exponent = z.as_tuple().exponent
    if y == 0 or not isinstance(exponent, int) or exponent >= 0:
        return False
    return abs(x / y - z) * 2 <= Decimal(1).scaleb(exponent)


def _machine_translation(document: Document, seed: int) -> str | None:
    return "foreign" if any(map(has_foreign_chunk, document.text.split("\n"))) else None


def has_foreign_chunk(paragraph: str) -> bool:
    """Whether of the chunks of ten tokens one is not English and stands between English ones.

    Chunks whose language has a confidence of 0.8 or less, or without a letter, do not count.
    Choice: tokens are split at white space, paragraphs at line ends; other chunks may lie between.
    """
    words = paragraph.split()
    kinds = ""
    for start in range(0, len(words), CHUNK_TOKENS):
        language, confidence = detect_language(" ".join(words[start : start + CHUNK_TOKENS]))
        if confidence > MIN_LANGUAGE_CONFIDENCE:
            kinds += "e" if language == ENGLISH else "f"
    return re.search("e.*f.*e", kinds) is not None


_PAPER: dict[str, Callable[[Document, int], str | None]] = {
    "Calculator": _calculator,
    "Calendar": _calendar,
    "MT": _machine_translation,
}
