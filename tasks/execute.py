"""Execute: one shard of proposed calls in, their outcomes out; and the cassette of a run."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from tasks.loaded_tools import ToolRef, close_callers, get_caller, get_tool
from tasks.running.policies import Location, effect_task, shard_task
from toolformer_core.calling.cassette import RecordedCall, write_cassette
from toolformer_core.config.pipeline import ExecuteConfig
from toolformer_core.config.runtime import Runtime
from toolformer_core.execute import STAGE_VERSION, count_outcomes, execute_calls
from toolformer_core.records import Document, ExecutedCall, ProposedCall
from toolformer_core.shards import ShardRef, read_manifest, read_shard, write_shard
from toolformer_core.tools.described import describe

CASSETTE = "cassette.parquet"


@shard_task("execute", STAGE_VERSION)
def execute_shard(
    proposed: ShardRef,
    documents: ShardRef,
    tool: ToolRef,
    config: ExecuteConfig,
    location: Location,
) -> ShardRef:
    """Run the tool on every proposed call of the shard."""
    by_id = {document.document_id: document for document in read_shard(documents, Document)}
    caller = get_caller(tool, config, location.runtime.tool_calls)
    executed = execute_calls(read_shard(proposed, ProposedCall), by_id, caller)
    return write_shard(
        executed,
        ExecutedCall,
        f"{location.folder}/part-{proposed.shard_index:05d}.parquet",
        shard_index=proposed.shard_index,
        counts=count_outcomes(executed),
    )


@effect_task
def close_tools(runtime: Runtime) -> None:
    """End the processes that the tools of a run were called in."""
    close_callers(runtime.root)


@effect_task
def record_calls(
    manifests: Sequence[Path],
    documents: Sequence[ShardRef],
    tools: Sequence[ToolRef],
    root: Path,
) -> Path:
    """Write what the tools answered to ROOT/cassette.parquet, from which it can be replayed."""
    path = root / CASSETTE
    described = [describe(get_tool(tool)) for tool in tools]
    write_cassette(_recorded(manifests, documents), described, path)
    return path


def _recorded(manifests: Sequence[Path], documents: Sequence[ShardRef]) -> Iterator[RecordedCall]:
    for manifest in manifests:
        for calls, texts in zip(read_manifest(manifest).shards, documents, strict=True):
            by_id = {document.document_id: document for document in read_shard(texts, Document)}
            for call in read_shard(calls, ExecutedCall):
                yield RecordedCall(
                    tool=call.tool,
                    tool_version=call.tool_version,
                    argument=call.argument,
                    document_id=call.document_id,
                    url=by_id[call.document_id].url,
                    date=by_id[call.document_id].date,
                    outcome=call.outcome,
                    reason=call.outcome_reason,
                    result=call.result,
                    latency_seconds=call.latency_seconds,
                )
