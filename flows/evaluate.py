"""Evaluate: every benchmark under every arm."""

from pathlib import Path
from typing import Any

from prefect import flow

from flows._stage import map_stage
from tasks._policies import MODEL_RUNNER
from tasks.evaluate import benchmark_digest, evaluate_shard, score_shards
from tasks.publish import load_stage
from tasks.resources import ToolRef
from toolformer_core.config import EvaluateConfig, ExecuteConfig, Runtime
from toolformer_core.models import ModelRef


@flow(name="evaluate", flow_run_name="evaluate", task_runner=MODEL_RUNNER)
def evaluate(
    base: ModelRef,
    tuned: ModelRef,
    tools: list[ToolRef],
    config: EvaluateConfig,
    execute: ExecuteConfig,
    runtime: Runtime,
) -> tuple[Path, list[dict[str, Any]]]:
    """The manifest of answered items, and the evaluation table."""
    inputs = [
        {
            "benchmark": spec,
            "benchmark_digest": benchmark_digest(spec),
            "arm": arm,
            "model": base if arm == "base" else tuned,
        }
        for spec in config.benchmarks
        for arm in config.arms
    ]
    settings = {
        "tools": tools,
        # One cell does not depend on which others are run.
        "config": config.model_copy(update={"benchmarks": (), "arms": ("on",)}),
        "execute": execute,
    }
    manifest = map_stage(
        "evaluate", "all", evaluate_shard, inputs, settings, runtime.root, runtime=runtime
    )
    return manifest, score_shards(list(load_stage(manifest).shards), config)
