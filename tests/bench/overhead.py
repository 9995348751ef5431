"""Overhead: what Prefect adds to a stage of many shards, and how long a stage takes that is cached.

The work of a shard is to sleep, over the path that every stage takes (map_stage, 8 threads), in a
process of its own, with a running server and with the one that a process starts for itself. Ideal:
as many rounds of sleep as 8 threads need. Then the same again: every shard is in the cache. The
stage is timed as a sub-flow of the pipeline, the process from its start to its end.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from flows.starting import environment as settings
from tests.support.prefect_service import serving

THREADS = 8
_LOCAL = ("PREFECT_API_URL", "PREFECT_HOME")

Figures = dict[str, Any]  # Any: numbers of both kinds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("--shards", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=1.0, help="work of one shard")


def main(arguments: argparse.Namespace) -> Figures:
    """Print the table; its rows."""
    settings.apply_defaults()
    with tempfile.TemporaryDirectory() as folder:
        (own := Path(folder) / "own").mkdir()
        (other := Path(folder) / "other").mkdir()
        with serving(other) as service:
            quiet = service.environment | {"PREFECT_LOGGING_LEVEL": "WARNING"}
            rows = runs("running server", other, quiet, arguments)
        local = {name: value for name, value in os.environ.items() if name not in _LOCAL}
        rows |= runs("own server", own, local | {"TOOLFORMER_HOME": str(own)}, arguments)
    ideal = math.ceil(arguments.shards / THREADS) * arguments.seconds
    table = Table(title=f"{arguments.shards} shards of {arguments.seconds:g} s, ideal {ideal:g} s")
    for name in ("", "cached", "stage, s", "overhead", "process, s"):
        table.add_column(name, justify="right" if name else "left")
    for name, row in rows.items():
        share = "-" if row["cached"] else f"{row['stage_seconds'] / ideal - 1:.2%}"
        seconds = (f"{row['stage_seconds']:.2f}", share, f"{row['process_seconds']:.1f}")
        table.add_row(name, str(row["cached"]), *seconds)
    Console().print(table)
    return {"ideal_seconds": ideal, **rows}


def runs(
    name: str, folder: Path, environment: dict[str, str], arguments: argparse.Namespace
) -> Figures:
    """The stage computed, and found in the cache."""
    command = [sys.executable, "-m", "tests.bench.overhead", str(folder / "run")]
    command += [str(arguments.shards), str(arguments.seconds)]
    rows = {}
    for kind in ("computed", "cached"):
        started = time.monotonic()
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, env=environment
        )
        row = json.loads(done.stdout)
        rows[f"{name}, {kind}"] = row | {"process_seconds": time.monotonic() - started}
    return rows


def one(root: Path, num_shards: int, seconds: float) -> Figures:
    """The stage, measured in this process."""
    settings.apply_defaults()
    from tests.support.sleeping import timed_sleep
    from toolformer_core.config.runtime import Runtime
    from toolformer_core.shards import read_manifest

    runtime = Runtime(root=root, home=settings.home().absolute())
    manifest, stage_seconds = timed_sleep(num_shards, seconds, runtime)
    return {"cached": read_manifest(manifest).num_cached, "stage_seconds": stage_seconds}


if __name__ == "__main__":
    print(json.dumps(one(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))))
