"""What is known of each benchmark but its items: metric, barred tools, and how rows are read."""

import functools
import importlib.metadata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from toolformer_core.benchmarks import lama, multilingual_qa, open_qa, temporal, texts
from toolformer_core.benchmarks.base import (
    Benchmark,
    BenchmarkItem,
    first_words_contain,
    number_is_right,
)
from toolformer_core.benchmarks.dateset import dateset
from toolformer_core.benchmarks.items import Parse
from toolformer_core.benchmarks.rows import RowSource, open_rows
from toolformer_core.benchmarks.word_problems import (
    PROBLEM_EXPECTED,
    bare_sums,
    generated_word_problems,
    one_step_problems,
    parse_word_problem,
)
from toolformer_core.readers import one_step


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSet:
    """How the rows of a benchmark are opened and what becomes of them."""

    benchmark: Benchmark  # without items
    expected: str
    parser: Callable[[RowSource | None], Parse]
    opens: Callable[[str, str, str], RowSource] = open_rows
    beside: Callable[[str, str], RowSource | None] = lambda source, setting: None
    default: str | None = None  # the source if none is named


def _first_words(num_words: int, *barred_tools: str) -> Benchmark:
    return Benchmark(
        name="",
        metric=f"answer in the first {num_words} words",
        items=(),
        is_right=functools.partial(first_words_contain, num_words=num_words),
        barred_tools=barred_tools,
        max_words=num_words,
    )


def _not_judged(answer: str, gold: tuple[str, ...]) -> bool:
    raise TypeError("texts without questions have no right answer")


_FIRST_NUMBER = Benchmark(
    name="", metric="first number is right", items=(), is_right=number_is_right
)
_ONE_LINE = replace(_FIRST_NUMBER, stop=("\n",))
"""Choice: the answers to our own problems end with their line."""
_PERPLEXITY = Benchmark(
    name="", metric="perplexity per token", items=(), is_right=_not_judged, kind="perplexity"
)
_CALL_RATE = Benchmark(
    name="", metric="share with a call", items=(), is_right=_not_judged, kind="call_rate"
)

_LAMA = FileSet(
    benchmark=_first_words(5, "WikiSearch"),
    expected=lama.EXPECTED,
    parser=lama.lama_parser,
    beside=lama.relations_beside,
)
_PROBLEMS = FileSet(
    benchmark=_FIRST_NUMBER, expected=PROBLEM_EXPECTED, parser=lambda _: parse_word_problem
)
_QUESTIONS = FileSet(
    benchmark=_first_words(20, "QA"),
    expected=open_qa.EXPECTED,
    parser=lambda _: open_qa.parse_question,
)


def _multilingual(language: str | None) -> FileSet:
    return FileSet(
        benchmark=_first_words(10),
        expected=multilingual_qa.EXPECTED,
        parser=functools.partial(multilingual_qa.multilingual_parser, language),
        beside=multilingual_qa.english_beside,
    )


FILE_SETS: dict[str, FileSet] = {
    **dict.fromkeys(("lama_squad", "lama_google_re", "lama_trex"), _LAMA),
    **dict.fromkeys(("asdiv", "svamp", "mawps", "gsm8k"), _PROBLEMS),
    **dict.fromkeys(("webquestions", "nq", "triviaqa"), _QUESTIONS),
    **dict.fromkeys(("mlqa", "xquad"), _multilingual(None)),
    **{
        f"{name}_{language}": _multilingual(language)
        for name in ("mlqa", "xquad")
        for language in multilingual_qa.LANGUAGES
    },
    "templama": FileSet(
        benchmark=_first_words(5),
        expected=temporal.EXPECTED,
        parser=lambda _: temporal.parse_templama,
    ),
    "templama_like": FileSet(
        benchmark=_first_words(5),
        expected=temporal.STAND_IN_EXPECTED,
        parser=lambda _: temporal.parse_stand_in,
    ),
    "wikitext": FileSet(
        benchmark=_PERPLEXITY,
        expected=texts.WIKITEXT_EXPECTED,
        parser=lambda _: texts.parse_text,
        opens=texts.open_articles,
    ),
    "heldout": FileSet(
        benchmark=_PERPLEXITY,
        expected=texts.TEXTS_EXPECTED,
        parser=lambda _: texts.parse_text,
        opens=texts.open_texts,
    ),
    "overcalling": FileSet(
        benchmark=_CALL_RATE,
        expected=texts.TEXTS_EXPECTED,
        parser=lambda _: texts.parse_passages,
        opens=texts.open_texts,
        default=texts.STORY,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedSet:
    """A set that is made from a seed."""

    benchmark: Benchmark  # without items
    generate: Callable[[int], Iterable[BenchmarkItem]]
    scope: str  # what the items stand for
    version: Callable[[], object] | None = None  # changes with the items; none: they tell
    num_items: int | None = None  # if no limit is given; none: all there are


GENERATED: dict[str, GeneratedSet] = {
    "dateset": GeneratedSet(
        benchmark=_first_words(5),
        generate=dateset,
        scope="The items ask for arithmetic with dates, of which the tools give only today's.",
    ),
    "word_problems": GeneratedSet(
        benchmark=_FIRST_NUMBER,
        generate=generated_word_problems,
        scope="The items take several steps each.",
        version=functools.partial(importlib.metadata.version, "reasoning-gym"),
        num_items=200,
    ),
    "one_step": GeneratedSet(
        benchmark=_ONE_LINE,
        generate=one_step_problems,
        scope="The items are from templates that no text of ours has; they say nothing of problems "
        "of more steps.",
        version=lambda: one_step.VERSION,
        num_items=200,
    ),
    "sums": GeneratedSet(
        benchmark=_ONE_LINE,
        generate=bare_sums,
        scope="The items name their expression; they say nothing of finding one.",
        version=lambda: one_step.VERSION,
        num_items=200,
    ),
}


def scope_of(name: str) -> str:
    """What the items of a generated set stand for; empty for a set from files."""
    return GENERATED[name].scope if name in GENERATED else ""
