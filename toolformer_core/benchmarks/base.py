"""What a benchmark is: items with a prompt and gold answers, and a metric per item."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from toolformer_core.tools.base import NUMBER_PATTERN


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkItem:
    """One question; `date` is the current day that the Calendar gives, if the set has one."""

    item_id: str
    prompt: str
    gold: tuple[str, ...]
    date: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """A named set of items and its metric."""

    name: str
    metric: str
    items: tuple[BenchmarkItem, ...]
    is_right: Callable[[str, tuple[str, ...]], bool]


def first_words_contain(answer: str, gold: tuple[str, ...], num_words: int) -> bool:
    """Whether a gold answer occurs, as whole words, in the first words of the answer.

    Source: paper, section 4.2.1 (five words, LAMA, also used for the temporal sets).
    """
    words = _without_commas(" ".join(answer.split()[:num_words])).casefold()
    wanted = [re.escape(_without_commas(g).casefold()) for g in gold]
    return any(re.search(rf"(?<!\w){g}(?!\w)", words) is not None for g in wanted)


def _without_commas(text: str) -> str:
    """The text with 1,234 written as 1234."""
    return re.sub(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))", "", text)


# A sign counts only where no word or number ends right before it: not in COVID-19.
_NUMBER = re.compile(
    rf"(?:(?<![\w.])(?P<sign>[-\u2212]) ?)?[$\u20ac\u00a3]? ?(?P<number>{NUMBER_PATTERN})"
)


def first_number(answer: str) -> float | None:
    """The first number of an answer, or the first behind "=" where it has an equation.

    Thousands separators and a currency sign are ignored. Source: paper, section 4.2.2, footnote 7.
    """
    if "=" in answer and (after := _NUMBER.search(answer.split("=", 1)[1])):
        return _value(after)
    match = _NUMBER.search(answer)
    return _value(match) if match else None


def _value(match: re.Match[str]) -> float:
    number = float(match["number"].replace(",", ""))
    return -number if match["sign"] else number


def number_is_right(answer: str, gold: tuple[str, ...]) -> bool:
    """Whether the predicted number equals a gold number (to a relative 1e-6)."""
    predicted = first_number(answer)
    return predicted is not None and any(
        abs(predicted - float(g)) <= 1e-6 * max(1.0, abs(float(g))) for g in gold
    )
