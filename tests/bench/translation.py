"""MT's routes on parallel sentences: `python -m tests.bench translation --pairs PATH`.

PATH is a JSONL file with the same sentence in fields named by language, as in shared/eval's
mt_pud.jsonl (UD-PUD). chrF and BLEU (sacrebleu) are against the English field; a sentence that the
tool rejects counts as an empty translation. "auto" is the tool itself, which is not told the
language; the other ways are. Times are without the start of a route.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from sacrebleu import corpus_bleu, corpus_chrf

from toolformer_core.calling.caller import BATCH_SIZE
from toolformer_core.config.tools import MTConfig
from toolformer_core.tools.base import NO_DOCUMENT
from toolformer_core.tools.language_id import detect_language
from toolformer_core.tools.machine_translation import MT
from toolformer_core.tools.translators import AUTO, Step, installed_steps, routes_of

SOURCES = ("es", "fr", "de")

Figures = dict[str, Any]  # Any: names and numbers
Way = Callable[[Sequence[str]], list[str]]
"""Translates sentences; one that is refused becomes an empty text."""


def read_pairs(path: Path, limit: int) -> list[dict[str, str]]:
    """The first sentences of the file."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for _, line in zip(range(limit), lines, strict=False)]


def ways_of(language: str, steps: Mapping[str, Step], tool: MT) -> dict[str, Way]:
    """All ways from the language into English that are installed, and none."""

    def way_of(route: Sequence[str]) -> Way:
        def translate(texts: Sequence[str]) -> list[str]:
            for name in route:
                texts = steps[name].translate(texts)
            return list(texts)

        return translate

    installed = [route for route in routes_of(language) if steps.keys() >= set(route)]
    ways = {" + ".join(route): way_of(route) for route in installed}
    return {"none": list, **ways, "auto": lambda texts: called(tool, texts)}


def called(tool: MT, texts: Sequence[str]) -> list[str]:
    """The tool's answers."""
    answers = tool.call_batch([(text, NO_DOCUMENT) for text in texts])
    return [answer if isinstance(answer, str) else "" for answer in answers]


def measured(way: Way, sources: Sequence[str], references: Sequence[str]) -> Figures:
    """Quality and speed of one way."""
    way(sources[:1])
    started = time.perf_counter()
    batches = (sources[k : k + BATCH_SIZE] for k in range(0, len(sources), BATCH_SIZE))
    translations = [text for batch in batches for text in way(batch)]
    seconds = time.perf_counter() - started
    return {
        "chrf": corpus_chrf(translations, [references]).score,
        "bleu": corpus_bleu(translations, [references]).score,
        "ms_per_sentence": 1000 * seconds / len(sources),
        "refused": sum(not text for text in translations) / len(translations),
    }


def identified(rows: Sequence[Mapping[str, str]]) -> dict[str, float]:
    """Share of the sentences whose language is told right, by language."""
    languages = (*SOURCES, "en")
    return {
        language: sum(detect_language(row[language])[0] == language for row in rows) / len(rows)
        for language in languages
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this bench."""
    parser.add_argument("--pairs", type=Path, required=True, help="JSONL, a text per language")
    parser.add_argument("--limit", type=int, default=200, help="sentences")


def main(arguments: argparse.Namespace) -> Figures:
    """Measure, print the table, and give the figures by language and way."""
    rows = read_pairs(arguments.pairs, arguments.limit)
    steps = installed_steps(AUTO)
    tool = MT(MTConfig())
    figures: Figures = {"tool": tool.version, "identified": identified(rows)}
    table = Table(title=f"{len(rows)} sentences into English", title_justify="left")
    for name in ("from", "way", "chrF", "BLEU", "ms/sentence", "refused"):
        table.add_column(name, justify="left" if name in ("from", "way") else "right")
    for language in SOURCES:
        ways = ways_of(language, steps, tool)
        for name, way in ways.items():
            found = measured(way, [row[language] for row in rows], [row["en"] for row in rows])
            figures[f"{language}: {name}"] = found
            quality = [f"{found['chrf']:.1f}", f"{found['bleu']:.1f}"]
            cost = [f"{found['ms_per_sentence']:.1f}", f"{found['refused']:.1%}"]
            table.add_row(language, name, *quality, *cost)
    console = Console(width=110)
    console.print(table)
    told = ", ".join(f"{name} {share:.1%}" for name, share in figures["identified"].items())
    console.print(f"language told right: {told}")
    return figures
