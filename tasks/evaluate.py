"""Evaluate: one benchmark and one arm in, its answered items out."""

import hashlib
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tasks._policies import effect_task, shard_task
from tasks.resources import ToolRef, get_caller, get_model
from toolformer_core.benchmarks.registry import load_benchmark
from toolformer_core.config import Arm, EvaluateConfig, ExecuteConfig, Runtime
from toolformer_core.evaluate import STAGE_VERSION, evaluate_arm, score_arm
from toolformer_core.models import ModelRef
from toolformer_core.records import EvaluatedItem
from toolformer_core.shards import ShardRef, read_shard, write_shard


@shard_task("evaluate", STAGE_VERSION, tag="gpu")
def evaluate_shard(
    benchmark: str,
    benchmark_digest: str,
    arm: Arm,
    model: ModelRef,
    tools: list[ToolRef],
    config: EvaluateConfig,
    execute: ExecuteConfig,
    folder: Path,
    runtime: Runtime,
) -> ShardRef:
    """Every item of the benchmark answered by the arm's model."""
    items = evaluate_arm(
        get_model(model, runtime.device, runtime.token_budget),
        load_benchmark(benchmark, config.limit, config.seed),
        arm,
        # No clock: an item without a date must not be answered differently tomorrow.
        {tool.name: get_caller(tool, execute, runtime.tool_calls) for tool in tools},
        config.decode,
    )
    name = f"{benchmark.partition('=')[0]}-{arm}"
    return write_shard(
        items,
        EvaluatedItem,
        folder / f"{name}.parquet",
        shard_index=0,
        counts={f"{name}:items": len(items)},
    )


def benchmark_digest(spec: str) -> str:
    """Digest of a benchmark's file, or of what generates it beside its settings."""
    name, _, path = spec.partition("=")
    if path:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
    return version("reasoning-gym") if name == "word_problems" else ""


@effect_task
def score_shards(shards: list[ShardRef], config: EvaluateConfig) -> list[dict[str, Any]]:
    """The evaluation table, one row per benchmark and arm (keys of ArmScore)."""
    metrics = {
        spec.partition("=")[0]: load_benchmark(spec, 1, config.seed).metric
        for spec in config.benchmarks
    }
    scored = [read_shard(shard, EvaluatedItem) for shard in shards]
    return [
        asdict(score_arm(items, metrics[items[0].benchmark], config.seed))
        for items in scored
        if items
    ]
