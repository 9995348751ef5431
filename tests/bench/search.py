"""The search index beside others: `python -m tests.bench search --corpus PATH [PATH ...]`.

    ours       toolformer_core.tools.search_index, that is tantivy
    sqlite     FTS5 of the standard library: any of the words, ranked by its bm25(), memory-mapped
    rank-bm25  BM25Okapi with our k1 and b, in memory; kept as a pickle

The passages are the sentences of the corpus, in a seeded random order; the queries are 3 to 5 words
of random passages. All three index and look up the words that our index makes of a text. Each is
built in one process and opened and searched in another; memory is the peak of each, "index MB" what
opening and searching added. "agrees" is the share of the queries whose best passage is one of those
that rank-bm25 gives its highest score.
"""

import argparse
import dataclasses
import json
import pickle
import random
import re
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from rank_bm25 import BM25Okapi
from rich.console import Console
from rich.table import Table

from toolformer_core.config.pipeline import CorpusConfig
from toolformer_core.corpus import read_corpus
from toolformer_core.records import Document
from toolformer_core.tools.base import NO_DOCUMENT
from toolformer_core.tools.search_index import (
    Passage,
    SearchIndex,
    build_index,
    passage_of,
    words_of,
)

SEED, NUM_FOUND = 20230209, 5

Figures = dict[str, Any]  # Any: a name, numbers, and lists of passage numbers
Search = Callable[[str], tuple[list[int], int]]
"""The numbers of the best passages for a query, and how many of them are known to be the best."""

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def passages_of(corpus: Sequence[str], count: int) -> list[Passage]:
    """Distinct sentences of the corpus, each numbered by its document_id."""
    config = CorpusConfig(sources=tuple(corpus), max_document_chars=2000)
    documents = (row for row in read_corpus(config) if isinstance(row, Document))
    found = {
        (passage_of(document).title, sentence)
        for document in documents
        for sentence in _SENTENCE_END.split(document.text)
        if len(words_of(sentence)) >= 5
    }
    drawn = random.Random(SEED).sample(sorted(found), min(count, len(found)))
    return [
        Passage(title=title, url=None, document_id=str(number), text=text)
        for number, (title, text) in enumerate(drawn)
    ]


def queries_of(passages: Sequence[Passage], count: int) -> list[str]:
    """Queries that have an answer."""
    draw = random.Random(SEED)
    texts = [words_of(draw.choice(passages).text) for _ in range(count)]
    return [" ".join(draw.choices(words, k=draw.randint(3, 5))) for words in texts]


def build_ours(passages: Iterator[Passage], folder: Path) -> None:
    build_index(passages, folder)


def open_ours(folder: Path) -> Search:
    index = SearchIndex(folder)

    def search(query: str) -> tuple[list[int], int]:
        found = index.search(query, limit=NUM_FOUND, context=NO_DOCUMENT)
        return [int(passage.document_id) for passage in found], 1

    return search


def build_sqlite(passages: Iterator[Passage], folder: Path) -> None:
    folder.mkdir()
    with closing(sqlite3.connect(folder / "index.db")) as connection, connection:
        connection.execute("CREATE TABLE passages (number INTEGER PRIMARY KEY, title, text)")
        connection.execute("CREATE VIRTUAL TABLE found USING fts5(words, content='')")
        for passage in passages:
            row = (int(passage.document_id), passage.title, passage.text)
            connection.execute("INSERT INTO passages VALUES (?, ?, ?)", row)
            words = " ".join(words_of(f"{passage.title} {passage.text}"))
            connection.execute("INSERT INTO found (rowid, words) VALUES (?, ?)", (row[0], words))


def open_sqlite(folder: Path) -> Search:
    connection = sqlite3.connect(folder / "index.db")
    connection.execute(f"PRAGMA mmap_size = {1 << 30}")
    sql = (
        "SELECT number, title, text FROM found JOIN passages ON number = found.rowid "
        f"WHERE found MATCH ? ORDER BY rank LIMIT {NUM_FOUND}"
    )

    def search(query: str) -> tuple[list[int], int]:
        words = " OR ".join(f'"{word}"' for word in dict.fromkeys(words_of(query)))
        return [row[0] for row in connection.execute(sql, [words])], 1

    return search


def build_rank_bm25(passages: Iterator[Passage], folder: Path) -> None:
    kept = list(passages)
    words = [words_of(f"{passage.title} {passage.text}") for passage in kept]
    folder.mkdir()
    with (folder / "index.pickle").open("wb") as stream:
        pickle.dump((kept, BM25Okapi(words, k1=1.2, b=0.75)), stream)


def open_rank_bm25(folder: Path) -> Search:
    with (folder / "index.pickle").open("rb") as stream:
        _, index = pickle.load(stream)

    def search(query: str) -> tuple[list[int], int]:
        scores = index.get_scores(list(dict.fromkeys(words_of(query))))
        num_best = int((scores >= scores.max() - 1e-9).sum())
        order = np.argsort(-scores.round(9), kind="stable")
        return [int(number) for number in order[: max(num_best, NUM_FOUND)]], num_best

    return search


WAYS: dict[str, tuple[Callable[[Iterator[Passage], Path], None], Callable[[Path], Search]]] = {
    "ours": (build_ours, open_ours),
    "sqlite": (build_sqlite, open_sqlite),
    "rank-bm25": (build_rank_bm25, open_rank_bm25),
}


def built(way: str, work: Path) -> Figures:
    """The index of one way, built in this process."""
    started = time.perf_counter()
    with (work / "passages.jsonl").open(encoding="utf-8") as lines:
        WAYS[way][0]((Passage(**json.loads(line)) for line in lines), work / way)
    seconds = time.perf_counter() - started
    size = sum(path.stat().st_size for path in (work / way).rglob("*") if path.is_file())
    return {"build_seconds": seconds, "disk_mb": size / 1e6, "build_peak_mb": peak_mb()}


def searched(way: str, work: Path) -> Figures:
    """The index of one way, opened and asked in this process."""
    queries = json.loads((work / "queries.json").read_text())
    before, started = peak_mb(), time.perf_counter()
    search = WAYS[way][1](work / way)
    opened = time.perf_counter()
    seconds, best = [], []
    for query in queries:
        began = time.perf_counter()
        found, num_best = search(query)
        seconds.append(time.perf_counter() - began)
        best.append(found[:num_best])
    return {
        "open_seconds": opened - started,
        "median_ms": 1000 * statistics.median(seconds),
        "p95_ms": 1000 * statistics.quantiles(seconds, n=20)[-1],
        "search_peak_mb": peak_mb(),
        "index_mb": peak_mb() - before,
        "best": best,
    }


def peak_mb() -> float:
    """Peak resident memory; not ru_maxrss, which a child inherits from its parent."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6


def in_child(phase: str, way: str, work: Path) -> Figures:
    """The figures of `built` or `searched`, from a process of its own."""
    command = [sys.executable, "-m", "tests.bench.search", phase, way, str(work)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    figures: Figures = json.loads(output)
    return figures


def search_table(corpus: Sequence[str], num_passages: int, num_queries: int) -> list[Figures]:
    """One row of figures per way."""
    passages = passages_of(corpus, num_passages)
    rows: list[Figures] = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        with (work / "passages.jsonl").open("w", encoding="utf-8") as stream:
            stream.writelines(json.dumps(dataclasses.asdict(p)) + "\n" for p in passages)
        (work / "queries.json").write_text(json.dumps(queries_of(passages, num_queries)))
        for way in WAYS:
            figures = in_child("built", way, work) | in_child("searched", way, work)
            rows.append({"way": way, "passages": len(passages), **figures})
    expected = rows[-1]["best"]  # of rank-bm25
    for row in rows:
        pairs = zip(row.pop("best"), expected, strict=True)
        row["agrees"] = statistics.mean(best[0] in bests for best, bests in pairs)
    return rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this measurement."""
    parser.add_argument("--corpus", nargs="+", required=True, help="as corpus.sources")
    parser.add_argument("--passages", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=200)


_COLUMNS = {
    "build s": "{build_seconds:.1f}",
    "build MB": "{build_peak_mb:.0f}",
    "disk MB": "{disk_mb:.1f}",
    "open ms": "{open_ms:.1f}",
    "median ms": "{median_ms:.3f}",
    "p95 ms": "{p95_ms:.3f}",
    "search MB": "{search_peak_mb:.0f}",
    "index MB": "{index_mb:.1f}",
    "agrees": "{agrees:.3f}",
}


def main(arguments: argparse.Namespace) -> Figures:
    """Measure, print the table, and give the figures by way."""
    rows = search_table(arguments.corpus, arguments.passages, arguments.queries)
    title = f"{rows[0]['passages']} passages, {arguments.queries} queries, best {NUM_FOUND}"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in _COLUMNS:
        table.add_column(name, justify="right")
    for row in rows:
        shown = row | {"open_ms": 1000 * row["open_seconds"]}
        table.add_row(row["way"], *(form.format(**shown) for form in _COLUMNS.values()))
    Console(width=120).print(table)
    return {row["way"]: row for row in rows}


if __name__ == "__main__":
    phase, way, work = sys.argv[1:]
    print(json.dumps({"built": built, "searched": searched}[phase](way, Path(work))))
