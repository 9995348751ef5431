"""Runners: the same annotation in threads, on two Dask workers and on two Ray workers.

Each by `toolformer annotate` in a folder of its own; then C* is compared, digests and bytes.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from toolformer_core.shards import read_manifest

RUNNERS = ("threads", "dask", "ray")
Figures = dict[str, Any]  # Any: numbers, and what C* is


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("--corpus", help="as corpus.sources; without it, the demo's")
    parser.add_argument("--documents", type=int, default=64)
    parser.add_argument("--runners", nargs="+", choices=RUNNERS, default=RUNNERS)


def main(arguments: argparse.Namespace) -> Figures:
    """Print the table; its rows."""
    with tempfile.TemporaryDirectory() as folder:
        rows = {name: annotated(name, Path(folder) / name, arguments) for name in arguments.runners}
    first = next(iter(rows.values()))
    table = Table(title=f"annotate, {arguments.documents} documents", title_justify="left")
    for name in ("runner", "seconds", "shards", "rows of C*", "same digests", "same bytes"):
        table.add_column(name)
    for name, row in rows.items():
        row["same_digests"] = row["digests"] == first["digests"]
        row["same_bytes"] = row["bytes"] == first["bytes"]
        kinds = ("seconds", "shards", "rows", "same_digests", "same_bytes")
        table.add_row(name, *(str(row[kind]) for kind in kinds))
    Console().print(table)
    return rows


def annotated(runner: str, root: Path, arguments: argparse.Namespace) -> Figures:
    """One annotation, and its C*."""
    command = [sys.executable, "-c", "from flows.cli.main import main; main()", "annotate"]
    command += ["--tools", "Calculator,Calendar", "--out", str(root), "--runner", runner]
    command += ["--corpus", arguments.corpus] if arguments.corpus else []
    command += ["--set", f"corpus.max_documents={arguments.documents}"]
    command += ["--set", "corpus.documents_per_shard=8"]
    started = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=threaded())
    seconds = time.monotonic() - started
    return {"seconds": round(seconds), **augmented(root)}


def threaded() -> dict[str, str]:
    """The environment; one thread per worker, so that sums are added in one order everywhere."""
    return os.environ | {"OMP_NUM_THREADS": "1"}


def augmented(root: Path) -> Figures:
    """C*: shards, rows, digests and bytes."""
    [manifest] = root.glob("augment/all/*/manifest.json")
    shards = read_manifest(manifest).shards
    contents = [Path(shard.path).read_bytes() for shard in shards]
    return {
        "shards": len(shards),
        "rows": sum(shard.num_rows for shard in shards),
        "digests": [shard.digest for shard in shards],
        "bytes": [hashlib.sha256(content).hexdigest() for content in contents],
    }
