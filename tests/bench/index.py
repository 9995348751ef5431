"""The DuckDB index at size: `python -m tests.bench index --rows 10000000`.

build     seconds, CPU seconds and peak memory of making it from shards, and sizes on disk
queries   the same of what people look at, each in a process of its own that opens the file

The shards have the real schemas and invented rows: 20 calls to a document, of which some half are
executed, a third is scored and an eighth kept.
"""

import argparse
import concurrent.futures
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from tasks.index import query
from tasks.index.build import build_index
from toolformer_core.config.presets import demo
from toolformer_core.records import (
    Document,
    ExecutedCall,
    FilterDecision,
    ProposedCall,
    ScoredCall,
)
from toolformer_core.shards import ShardRef, StageRef, arrow_schema

Figures = dict[str, Any]  # Any: numbers
Columns = dict[str, Any]  # Any: arrays

TOOLS = demo().tools.enabled
CALLS_PER_DOCUMENT = 20
SHARD_ROWS = 50_000
TAU_F = 0.5

QUERIES = {
    "sweep": "SELECT * FROM threshold_sweep",
    "funnel": "SELECT * FROM funnel",
    "drops": "SELECT * FROM drops",
    "health": "SELECT * FROM tool_health",
    "another tau_f": "SELECT tool, count(*) FROM candidates WHERE loss_reduction >= 0.3 GROUP BY 1",
    "kept examples": "SELECT * FROM kept_examples",
    "dropped examples": "SELECT * FROM dropped_examples",
}


def draw(rng: np.random.Generator, shares: dict[str | None, float], count: int) -> pa.Array:
    """So many of the keys, in these shares."""
    keys = pa.array(list(shares), pa.string())
    return keys.take(pa.array(rng.choice(len(shares), count, p=list(shares.values()))))


def identifiers(rng: np.random.Generator, count: int) -> pa.Array:
    """Random identifiers of 16 hexadecimal characters."""
    offsets = np.arange(0, 16 * count + 1, 16, dtype=np.int32)
    text = rng.bytes(8 * count).hex().encode()
    return pa.Array.from_buffers(
        pa.string(), count, [None, pa.py_buffer(offsets), pa.py_buffer(text)]
    )


def lists(values: pa.Array, length: int) -> pa.Array:
    """The values in lists of one length."""
    return pa.ListArray.from_arrays(np.arange(0, len(values) + 1, length, dtype=np.int32), values)


def losses(rng: np.random.Generator, count: int) -> pa.Array:
    """Five losses for each, rounded as bfloat16 rounds."""
    return lists(pa.array(rng.exponential(1.5, 5 * count).astype(np.float32).astype(float)), 5)


def proposed(rng: np.random.Generator, documents: pa.Array, tool: str) -> Columns:
    """Calls to one tool, `CALLS_PER_DOCUMENT` for each document."""
    count = CALLS_PER_DOCUMENT * len(documents)
    numbers = [pc.cast(pa.array(rng.integers(1, 1000, count)), pa.string()) for _ in range(2)]
    reasons = {
        None: 0.55,
        "not_closed": 0.1,
        "malformed": 0.1,
        "duplicate": 0.1,
        "look_ahead": 0.15,
    }
    return {
        "candidate_id": identifiers(rng, count),
        "document_id": documents.take(pa.array(np.repeat(np.arange(len(documents)), 20))),
        "tool": pa.array([tool] * count),
        "char_offset": pa.array(rng.integers(0, 300, count)),
        "token_index": pa.array(rng.integers(0, 80, count)),
        "window_start": pa.array(np.zeros(count, dtype=int)),
        "window_end": pa.array(np.full(count, 80)),
        "start_probability": pa.array(rng.random(count)),
        "sample_index": pa.array(rng.integers(0, 5, count)),
        "argument": pc.binary_join_element_wise(*numbers, " + "),
        "loss_without_call": pa.array(rng.exponential(2.0, count)),
        "token_losses_without_call": losses(rng, count),
        "drop_reason": draw(rng, reasons, count),
    }


def executed(rng: np.random.Generator, calls: pa.Table) -> pa.Table:
    """What became of the calls that were not dropped."""
    calls = calls.filter(pc.is_null(calls["drop_reason"]))
    count = len(calls)
    outcomes: dict[str | None, float] = {
        "ok": 0.7,
        "rejected": 0.15,
        "empty": 0.1,
        "failed": 0.03,
        "timed_out": 0.02,
    }
    columns: Columns = {name: calls[name] for name in calls.column_names}
    columns |= {
        "tool_version": pa.array(["1"] * count),
        "outcome": draw(rng, outcomes, count),
        "outcome_reason": pa.array([""] * count),
        "result": pc.cast(pa.array(rng.integers(1, 2000, count)), pa.string()),
        "latency_seconds": pa.array(rng.exponential(0.01, count)),
    }
    return table(columns, ExecutedCall)


def scored(rng: np.random.Generator, calls: pa.Table) -> pa.Table:
    """The losses of the calls with a result."""
    calls = calls.filter(pc.equal(calls["outcome"], "ok"))
    count = len(calls)
    words = pa.array([" the", " 91", " and", " of", ",", " is", " in", " all"])
    reduction = rng.normal(0.1, 0.6, count)
    nothing = pa.array(np.full(count, np.nan), mask=np.ones(count, dtype=bool))
    columns: Columns = {name: calls[name] for name in calls.column_names}
    columns |= {
        "loss_with_empty_result": pa.array(rng.exponential(2.0, count), mask=reduction < 0.1),
        "loss_with_result": pa.array(rng.exponential(2.0, count)),
        "loss_with_wrong_result": nothing,
        "loss_with_shuffled_result": nothing,
        "loss_reduction": pa.array(reduction),
        "scored_tokens": lists(words.take(pa.array(rng.integers(0, 8, 5 * count))), 5),
        "token_losses_with_empty_result": losses(rng, count),
        "token_losses_with_result": losses(rng, count),
        "is_right": pa.array(rng.random(count) < 0.3, mask=rng.random(count) < 0.5),
    }
    return table(columns, ScoredCall)


def decided(calls: pa.Table) -> pa.Table:
    """Whether the scored calls are kept."""
    kept = pc.greater_equal(calls["loss_reduction"], TAU_F)
    columns: Columns = {name: calls[name] for name in calls.column_names}
    columns |= {
        "filtering_threshold": pa.array(np.full(len(calls), TAU_F)),
        "kept": kept,
        "drop_reason": pc.if_else(kept, pa.scalar(None, pa.string()), "below_threshold"),
    }
    return table(columns, FilterDecision)


def texts(rng: np.random.Generator, count: int) -> pa.Table:
    """Documents of 300 characters."""
    words = pa.array(["The", "apples", "and", "pears", "make", "91", "in", "all", "she", "bought"])
    text = pc.binary_join(lists(words.take(pa.array(rng.integers(0, 10, 60 * count))), 60), " ")
    ids = identifiers(rng, count)
    nothing = pa.nulls(count, pa.string())
    source = pa.array(["texts.jsonl"] * count)
    columns = {"document_id": ids, "text": text, "url": nothing, "date": nothing, "source": source}
    return table(columns, Document)


def table(columns: Columns, record_type: type) -> pa.Table:
    """The columns that a record has."""
    schema = arrow_schema(record_type)
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def write_shards(folder: Path, num_rows: int) -> list[StageRef]:
    """The stages from corpus to filter, with this many proposed calls."""
    shards: dict[tuple[str, str], list[ShardRef]] = {}
    num_shards = -(-num_rows // (SHARD_ROWS * len(TOOLS)))
    for shard in range(num_shards):
        rng = np.random.default_rng(shard)
        rows = min(SHARD_ROWS, num_rows // len(TOOLS) - shard * SHARD_ROWS)
        documents = texts(rng, rows // CALLS_PER_DOCUMENT)
        for stage, tool, content in stage_tables(rng, documents):
            counts = {"documents": len(documents), "positions": len(content)}
            path = folder / stage / tool / f"part-{shard:05d}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(content, path, compression="zstd")
            ref = ShardRef(
                path=str(path), digest="", num_rows=len(content), shard_index=shard, counts=counts
            )
            shards.setdefault((stage, tool), []).append(ref)
    return [
        StageRef(stage=stage, tool=tool, fingerprint="", shards=tuple(refs))
        for (stage, tool), refs in shards.items()
    ]


def stage_tables(
    rng: np.random.Generator, documents: pa.Table
) -> Iterator[tuple[str, str, pa.Table]]:
    """Stage, tool and rows of all shards of one index."""
    yield "corpus", "all", documents
    for tool in TOOLS:
        calls = table(proposed(rng, documents["document_id"].combine_chunks(), tool), ProposedCall)
        answered = executed(rng, calls)
        measured = scored(rng, answered)
        yield "sample", tool, calls
        yield "execute", tool, answered
        yield "score", tool, measured
        yield "filter", tool, decided(measured)


def build(stages: Sequence[StageRef], path: Path) -> None:
    """Make the index."""
    build_index(stages, demo(), path)


def ask(path: Path, sql: str) -> None:
    """Read the answer to a query."""
    query.select(path, sql)


def measured(work: Callable[..., None], repeats: int, arguments: Sequence[Any]) -> Figures:
    """Seconds and CPU seconds, the best of the repeats, and peak memory, of this process."""
    before, walls, cpus = peak_mb(), [], []
    for _ in range(repeats):
        started, used = time.perf_counter(), time.process_time()
        work(*arguments)
        walls.append(time.perf_counter() - started)
        cpus.append(time.process_time() - used)
    return {
        "seconds": min(walls),
        "first_seconds": walls[0],
        "cpu_seconds": min(cpus),
        "peak_mb": peak_mb(),
        "peak_mb_before": before,
    }


def peak_mb() -> float:
    """Peak resident memory of this process; what resource tells begins with the parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def in_child(work: Callable[..., None], repeats: int, *arguments: Any) -> Figures:
    """The same in a process of its own."""
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(measured, work, repeats, arguments).result()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument(
        "--folder", type=Path, help="for shards and index; default: a temporary one"
    )


def main(arguments: argparse.Namespace) -> Figures:
    """Print the table; the figures."""
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        stages = write_shards(folder / "shards", arguments.rows)
        path = folder / "calls.duckdb"
        figures: Figures = {"build": in_child(build, 1, stages, path)}
        for name, sql in QUERIES.items():
            figures[name] = in_child(ask, 3, path, sql)
        in_shards = sum(f.stat().st_size for f in (folder / "shards").rglob("*.parquet"))
        figures["gigabytes"] = {"shards": in_shards / 1e9, "index": path.stat().st_size / 1e9}
    finally:
        shutil.rmtree(folder)
    show(figures, arguments.rows)
    return figures


def show(figures: Figures, num_rows: int) -> None:
    """Seconds and memory of each."""
    shown = Table(title=f"Index of {num_rows:,} calls", title_justify="left")
    for name in ("", "s", "first", "CPU s", "peak MB"):
        shown.add_column(name, justify="right" if name else "left")
    for name, f in figures.items():
        if name != "gigabytes":
            seconds = (f["seconds"], f["first_seconds"], f["cpu_seconds"])
            shown.add_row(name, *(f"{s:.2f}" for s in seconds), f"{f['peak_mb']:.0f}")
    Console(width=100).print(shown)
    print(figures["gigabytes"])
