"""A stage whose work is to sleep, over the path of every stage."""

import time
from pathlib import Path

from prefect import flow

from flows._stage import map_stage
from tasks.report.artifacts import report_stage
from tasks.running.policies import TOOL_RUNNER, Location, shard_task
from toolformer_core.config.runtime import Runtime
from toolformer_core.records import FilterDecision
from toolformer_core.shards import ShardRef, write_shard


@shard_task("sleep", 1)
def sleep_shard(number: int, seconds: float, location: Location) -> ShardRef:
    """An empty shard, after a while."""
    time.sleep(seconds)
    path = f"{location.folder}/part-{number:05d}.parquet"
    return write_shard([], FilterDecision, path, shard_index=number, counts={"slept": 1})


@flow(name="sleep", flow_run_name="sleep", task_runner=TOOL_RUNNER)
def sleep(num_shards: int, seconds: float, runtime: Runtime) -> Path:
    """The manifest of the stage."""
    inputs = [{"number": number} for number in range(num_shards)]
    manifest = map_stage("sleep", "all", sleep_shard, inputs, {"seconds": seconds}, runtime)
    report_stage("sleep", [manifest])
    return manifest


@flow(name="sleeping")
def timed_sleep(num_shards: int, seconds: float, runtime: Runtime) -> tuple[Path, float]:
    """The stage as a sub-flow, as in the pipeline: its manifest, and the seconds it took."""
    started = time.monotonic()
    manifest = sleep(num_shards, seconds, runtime)
    return manifest, time.monotonic() - started
