"""Execute: one shard of proposed calls in, their outcomes out."""

from pathlib import Path

from tasks._policies import shard_task
from tasks.resources import ToolRef, get_tool
from toolformer_core.config import ExecuteConfig
from toolformer_core.execute import STAGE_VERSION, count_outcomes, execute_calls
from toolformer_core.records import Document, ExecutedCall, ProposedCall
from toolformer_core.shards import ShardRef, read_shard, write_shard


@shard_task("execute", STAGE_VERSION)
def execute_shard(
    proposed: ShardRef, documents: ShardRef, tool: ToolRef, config: ExecuteConfig, folder: Path
) -> ShardRef:
    """Run the tool on every proposed call of the shard."""
    by_id = {document.document_id: document for document in read_shard(documents, Document)}
    executed = execute_calls(read_shard(proposed, ProposedCall), by_id, get_tool(tool), config)
    return write_shard(
        executed,
        ExecutedCall,
        folder / f"part-{proposed.shard_index:05d}.parquet",
        shard_index=proposed.shard_index,
        counts=count_outcomes(executed),
    )
