"""Filter: the losses of every executed call, then the decision to keep it."""

from pathlib import Path

from prefect import flow

from flows._stage import map_stage
from tasks.filter import filter_shard, pool_results, score_shard
from tasks.loaded_models import AnnotatorRef
from tasks.loaded_tools import ToolRef
from tasks.output.manifests import load_stage
from tasks.report.artifacts import report_stage
from tasks.running.policies import MODEL_RUNNER, TOOL_RUNNER
from toolformer_core.config.pipeline import PipelineConfig, ProposerConfig
from toolformer_core.config.runtime import Runtime
from toolformer_core.models import ModelRef


@flow(name="score", flow_run_name="score", task_runner=MODEL_RUNNER)
def score(
    executed: list[Path],
    documents: Path,
    tools: list[ToolRef],
    model: ModelRef,
    config: PipelineConfig,
    runtime: Runtime,
) -> list[Path]:
    """Forward passes: one manifest of losses per tool, in the order of the tools."""
    texts = load_stage(documents).shards
    proposer = config.proposer if config.proposer.scores else ProposerConfig()
    manifests = []
    for tool, manifest in zip(tools, executed, strict=True):
        calls, own = load_stage(manifest).shards, config.of_tool(tool.name)
        pairs = [{"executed": c, "documents": d} for c, d in zip(calls, texts, strict=True)]
        settings = {
            "tool": tool,
            "annotator": AnnotatorRef(model=model, proposer=proposer),
            "config": own.score,
            "prune_below": own.prune_below,
            # Only where it is asked for: the pool changes when documents are added.
            "wrong_results": pool_results(calls) if "wrong_result" in config.score.controls else (),
        }
        manifests.append(
            map_stage(
                "score", tool.name, score_shard, pairs, settings, runtime, [manifest, documents]
            )
        )
    report_stage("score", manifests)
    return manifests


@flow(name="filter", flow_run_name="filter", task_runner=TOOL_RUNNER)
def filter_scored(
    scored: list[Path], tools: list[ToolRef], config: PipelineConfig, runtime: Runtime
) -> list[Path]:
    """No forward pass: one manifest of decisions per tool, in the order of the tools."""
    manifests = []
    for tool, manifest in zip(tools, scored, strict=True):
        shards = [{"scored": shard} for shard in load_stage(manifest).shards]
        threshold = config.of_tool(tool.name).filtering_threshold
        settings = {"tool": tool.name, "filtering_threshold": threshold}
        manifests.append(
            map_stage("filter", tool.name, filter_shard, shards, settings, runtime, [manifest])
        )
    report_stage("filter", manifests)
    return manifests
