"""What a benchmark is: items with a prompt and gold answers, and a metric per item."""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from toolformer_core.tools.base import NUMBER_PATTERN

Kind = Literal["answer", "perplexity", "call_rate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkItem:
    """One question; `date` is the current day that the Calendar gives, if the set has one."""

    item_id: str
    prompt: str
    gold: tuple[str, ...]
    date: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """A named set of items and its metric.

    By kind, an item's score is: answer, whether `is_right` holds of what the model said without
    its calls; perplexity, the nats per token of the prompt, which is a whole text; call_rate,
    whether a call was made. `barred_tools` may not be used, as they hold the answers.
    """

    name: str
    metric: str
    items: tuple[BenchmarkItem, ...]
    is_right: Callable[[str, tuple[str, ...]], bool]
    kind: Kind = "answer"
    barred_tools: tuple[str, ...] = ()
    max_words: int | None = None
    """Words of an answer that the metric looks at; none: all. Choice: no more are generated."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer."""


_AS_WORDS = r"(?<![^\W_])(?<![0-9]\.){}(?![^\W_])(?!\.[0-9])"


def first_words_contain(answer: str, gold: tuple[str, ...], num_words: int) -> bool:
    """Whether a gold answer occurs, as whole words, in the first words of the answer.

    Source: paper, sections 4.2.1 (five words: LAMA and the temporal sets), 4.2.3 (twenty: open
    questions) and 4.2.4 (ten: MLQA). Choice: case, thousands commas and the shape of quotes and
    dashes are ignored and nothing else; a word is letters and digits without others beside them,
    and a part of a decimal number is no word.
    """
    words = _plain(" ".join(answer.split()[:num_words]))
    wanted = [_plain(" ".join(g.split())) for g in gold]
    return any(
        g in words and re.search(_AS_WORDS.format(re.escape(g)), words) is not None
        for g in wanted
        if g
    )


_SHAPES = str.maketrans(
    dict.fromkeys("\u2018\u2019\u02bc", "'")
    | dict.fromkeys("\u201c\u201d", '"')
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-")
)
_THOUSANDS = re.compile(r"(?<![0-9,])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])")


def _plain(text: str) -> str:
    """The text in lower case, with 1,234 written as 1234 and plain quotes and dashes."""
    composed = unicodedata.normalize("NFC", text).translate(_SHAPES)
    return _THOUSANDS.sub(lambda number: number[0].replace(",", ""), composed).casefold()


# A sign counts only where no word or number ends right before it (not in COVID-19), and only next
# to its number: in "- 5 apples" it starts a list.
_NUMBER = re.compile(
    rf"(?:(?<![\w.])(?P<sign>[-\u2212]))?(?:[$\u20ac\u00a3] ?)?(?P<number>{NUMBER_PATTERN})"
)


def first_number(answer: str) -> float | None:
    """The first number of an answer, or the first behind "=" where it has an equation.

    Thousands commas and a currency sign are ignored. Source: paper, section 4.2.2, footnote 7.
    Choice: of several "=" the first one counts, if a number follows it; digits are a number even
    inside a word.
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
