"""Execute: the outcome of every proposed call."""

from pathlib import Path

from prefect import flow

from flows._stage import map_stage
from tasks.execute import close_tools, execute_shard
from tasks.loaded_tools import ToolRef
from tasks.output.manifests import load_stage
from tasks.report.artifacts import report_stage
from tasks.running.policies import TOOL_RUNNER
from toolformer_core.config.pipeline import ExecuteConfig
from toolformer_core.config.runtime import Runtime


@flow(name="execute", flow_run_name="execute", task_runner=TOOL_RUNNER)
def execute(
    proposed: list[Path],
    documents: Path,
    tools: list[ToolRef],
    config: ExecuteConfig,
    runtime: Runtime,
) -> list[Path]:
    """One manifest per tool, in the order of the tools."""
    texts = load_stage(documents).shards
    manifests = []
    for tool, manifest in zip(tools, proposed, strict=True):
        calls = load_stage(manifest).shards
        pairs = [{"proposed": c, "documents": d} for c, d in zip(calls, texts, strict=True)]
        settings = {"tool": tool, "config": config}
        manifests.append(
            map_stage(
                "execute",
                tool.name,
                execute_shard.with_options(tags={f"tool:{tool.name}"}),
                pairs,
                settings,
                runtime,
                [manifest, documents],
            )
        )
    close_tools(runtime)
    report_stage("execute", manifests)
    return manifests
