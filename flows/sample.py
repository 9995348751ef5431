"""Sample: proposed calls of every tool for every document."""

from pathlib import Path

from prefect import flow

from flows._stage import map_stage
from tasks.loaded_models import AnnotatorRef
from tasks.loaded_tools import ToolRef
from tasks.output.manifests import load_stage
from tasks.report.artifacts import report_stage
from tasks.running.policies import MODEL_RUNNER
from tasks.sample import sample_shard
from toolformer_core.config.pipeline import PipelineConfig
from toolformer_core.config.runtime import Runtime
from toolformer_core.heuristics import heuristic_digest
from toolformer_core.models import ModelRef


@flow(name="sample", flow_run_name="sample", task_runner=MODEL_RUNNER)
def sample(
    documents: Path,
    tools: list[ToolRef],
    model: ModelRef,
    config: PipelineConfig,
    runtime: Runtime,
) -> list[Path]:
    """One manifest per tool."""
    shards = [{"documents": shard} for shard in load_stage(documents).shards]
    manifests = []
    for tool in tools:
        own = config.of_tool(tool.name).sample
        settings = {
            "tool": tool,
            "annotator": AnnotatorRef(model=model, proposer=config.proposer),
            "config": own,
            "num_scored_tokens": config.score.num_scored_tokens,
            "token_weights": config.score.token_weights,
            "heuristic_digest": heuristic_digest(own.document_heuristic),
        }
        manifests.append(
            map_stage("sample", tool.name, sample_shard, shards, settings, runtime, [documents])
        )
    report_stage("sample", manifests)
    return manifests
