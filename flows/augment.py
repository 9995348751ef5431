"""Augment: C*, the documents with the kept calls of all tools."""

from pathlib import Path

from prefect import flow

from flows._stage import map_stage
from tasks.augment import augment_shard, tool_cutoffs
from tasks.output.manifests import load_stage
from tasks.report.artifacts import report_stage
from tasks.running.policies import TOOL_RUNNER
from toolformer_core.config.pipeline import AugmentConfig
from toolformer_core.config.runtime import Runtime


@flow(name="augment", flow_run_name="augment", task_runner=TOOL_RUNNER)
def augment(kept: list[Path], documents: Path, config: AugmentConfig, runtime: Runtime) -> Path:
    """The manifest of C*."""
    by_tool = [load_stage(manifest).shards for manifest in kept]
    cutoffs = tool_cutoffs([shard for shards in by_tool for shard in shards], config)
    inputs = [
        {"documents": texts, "decisions": list(decisions)}
        for texts, *decisions in zip(load_stage(documents).shards, *by_tool, strict=True)
    ]
    settings = {"cutoffs": cutoffs, "config": config}
    manifest = map_stage(
        "augment", "all", augment_shard, inputs, settings, runtime, [*kept, documents]
    )
    report_stage("augment", [manifest])
    return manifest
