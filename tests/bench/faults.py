"""Faults: what `toolformer annotate` does when a tool ails, and what the next run does.

Half of the calls of a Python function hang, die, leak memory, return 10 MB or bytes, or are slow
(tests/support/ailing_tool.py). An HTTP tool is away for half a minute, for good, or hangs for all
calls. Every row must have as many calls as sampled ones: nothing is lost. A run that failed is
repeated with the tool well: it must keep the shards that were finished and end.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.support.http_tools import Reply, answering

FUNCTION_FAULTS = ("loop", "native", "kill", "crash", "leak", "big", "bytes", "slow")
SERVER_FAULTS = ("away 30 s", "away for good", "hangs")
TIMEOUT_SECONDS = 4
Figures = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("--corpus", required=True, help="as corpus.sources")
    parser.add_argument("--documents", type=int, default=12)


def main(arguments: argparse.Namespace) -> Figures:
    """Print the table; its rows."""
    rows = {}
    for fault in FUNCTION_FAULTS:
        tool = {"kind": "python", "function": "tests.support.ailing_tool:note"}
        with tempfile.TemporaryDirectory() as folder:
            rows[f"half: {fault}"] = [annotate(arguments, tool, Path(folder), FAULT=fault)]
    for fault in SERVER_FAULTS:
        with tempfile.TemporaryDirectory() as folder, port() as (number, serve):
            rows[f"all: {fault}"] = ailing_server(arguments, fault, number, serve, Path(folder))
    table = Table(title="A tool that ails", title_justify="left")
    for name in ("fault", "run", "exit code", "seconds", "calls", "outcomes", "message"):
        table.add_column(name, overflow="fold")
    for fault, runs in rows.items():
        for number, run in enumerate(runs, 1):
            table.add_row(fault, *map(str, (number, *run.values())))
    Console().print(table)
    return rows


def ailing_server(
    arguments: argparse.Namespace, fault: str, number: int, serve, folder: Path
) -> list[Figures]:
    """The runs with a server that is away or hangs; after a failed one, one with it well."""
    tool = {
        "kind": "http",
        "name": "note",
        "description": "Tells a number that belongs to a text.",
        "url": f"http://127.0.0.1:{number}/{{query}}",
        "allow_private": True,
    }
    if fault == "hangs":
        with serve(lambda request: time.sleep(60) or Reply(b"7")):
            runs = [annotate(arguments, tool, folder)]
    elif fault == "away for good":
        runs = [annotate(arguments, tool, folder)]
    else:
        with serve(lambda request: Reply(b"7"), after=lambda: is_executing(folder)):
            runs = [annotate(arguments, tool, folder)]
    if runs[0]["exit code"] != 0:
        with serve(lambda request: Reply(b"7")):
            runs.append(annotate(arguments, tool, folder))
    return runs


def is_executing(folder: Path) -> bool:
    """Whether a run has sampled its calls."""
    return (folder / "run" / "execute").exists() or any(folder.glob("run/sample/*/*/manifest.json"))


@contextmanager
def port() -> Iterator[tuple[int, Any]]:
    """A port of this machine, and what serves on it."""
    with answering(Reply()) as server:
        number = server.port

    @contextmanager
    def serve(answer, after=None):
        stop = threading.Event()

        def run():
            while after and not after() and not stop.wait(0.2):
                pass
            if after and stop.wait(30):
                return
            with answering(answer, port=number):
                stop.wait()

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    yield number, serve


def annotate(arguments: argparse.Namespace, tool: Figures, folder: Path, **env: str) -> Figures:
    """One run, and the outcomes that its shards hold."""
    settings = {
        "corpus.max_documents": arguments.documents,
        "corpus.sample_seed": 7,
        "corpus.max_document_chars": 400,
        "corpus.documents_per_shard": max(1, arguments.documents // 2),
        "tools.own": [tool],
        "tools.enabled": ["note"],
        "sample.max_positions": 2,
        "sample.samples_per_position": 3,
        "execute.timeout_seconds": TIMEOUT_SECONDS,
        "execute.max_memory_mb": 400,
        "execute.outage_retries": 3,
    }
    command = [sys.executable, "-c", "from flows.cli.main import main; main()", "annotate"]
    command += ["--corpus", arguments.corpus, "--out", str(folder / "run")]
    for name, value in settings.items():
        command += ["--set", f"{name}={json.dumps(value)}"]
    started = time.monotonic()
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=os.environ | env
    )
    seconds = time.monotonic() - started
    said = [line for line in done.stderr.splitlines() if line.startswith("toolformer: ")]
    calls, outcomes = (0, {}) if done.returncode else counted(folder / "run")
    return {
        "exit code": done.returncode,
        "seconds": round(seconds),
        "calls": calls,
        "outcomes": outcomes,
        "message": said[-1] if said else "",
    }


def counted(root: Path) -> tuple[str, Figures]:
    """Calls = kept + dropped as the funnel has them, and the number of calls by outcome."""
    from tasks.index.query import funnel, query

    row = funnel(root / "calls.duckdb")["note"]
    total = row["kept"] + sum(row["dropped"].values())
    assert row["calls"] == total, row
    sql = "SELECT outcome, outcome_reason, count(*) FROM candidates WHERE outcome IS NOT NULL "
    _, rows = query(root / "calls.duckdb", sql + "GROUP BY ALL ORDER BY ALL", 99)
    outcomes = {": ".join(filter(None, (outcome, why))): n for outcome, why, n in rows}
    return f"{row['calls']} = {row['kept']} + {total - row['kept']}", outcomes
