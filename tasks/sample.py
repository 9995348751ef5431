"""Sample: one shard of documents in, one shard of proposed calls to one tool out."""

from collections import Counter

from tasks.loaded_models import AnnotatorRef, get_annotator
from tasks.loaded_tools import ToolRef, get_tool
from tasks.running.policies import Location, shard_task
from toolformer_core.config.pipeline import TokenWeights, ToolSampleConfig
from toolformer_core.records import Document, ProposedCall
from toolformer_core.sample import STAGE_VERSION, sample_calls
from toolformer_core.shards import ShardRef, read_shard, write_shard


@shard_task("sample", STAGE_VERSION, tag="gpu")
def sample_shard(
    documents: ShardRef,
    tool: ToolRef,
    annotator: AnnotatorRef,
    config: ToolSampleConfig,
    num_scored_tokens: int,
    token_weights: TokenWeights,
    heuristic_digest: str,
    location: Location,
) -> ShardRef:
    """Sample calls to one tool for every document of the shard.

    The digest changes nothing but the cache key: a heuristic of the user's own is known by its
    source.
    """
    calls, counts = sample_calls(
        read_shard(documents, Document),
        get_annotator(annotator, location.runtime),
        get_tool(tool),
        config,
        num_scored_tokens=num_scored_tokens,
        token_weights=token_weights,
    )
    reasons = Counter(call.drop_reason or "proposed" for call in calls)
    return write_shard(
        calls,
        ProposedCall,
        f"{location.folder}/part-{documents.shard_index:05d}.parquet",
        shard_index=documents.shard_index,
        counts={**counts, "calls": len(calls), **reasons},
    )
