"""Filter: measure the losses of executed calls (forward passes), then decide (free)."""

from collections import Counter
from collections.abc import Sequence

from tasks.loaded_models import AnnotatorRef, get_annotator
from tasks.loaded_tools import ToolRef, get_tool
from tasks.running.policies import Location, effect_task, shard_task
from toolformer_core.config.pipeline import ToolScoreConfig
from toolformer_core.filter import STAGE_VERSION, filter_calls, result_pool, score_calls
from toolformer_core.records import Document, ExecutedCall, FilterDecision, ScoredCall
from toolformer_core.shards import ShardRef, read_shard, write_shard


@shard_task("score", STAGE_VERSION, tag="gpu")
def score_shard(
    executed: ShardRef,
    documents: ShardRef,
    tool: ToolRef,
    annotator: AnnotatorRef,
    config: ToolScoreConfig,
    prune_below: float,
    wrong_results: tuple[str, ...],
    location: Location,
) -> ShardRef:
    """The losses of every call that has a result."""
    by_id = {document.document_id: document for document in read_shard(documents, Document)}
    scored = score_calls(
        read_shard(executed, ExecutedCall),
        by_id,
        get_annotator(annotator, location.runtime),
        get_tool(tool),
        config,
        prune_below=prune_below,
        result_pool=wrong_results,
    )
    return write_shard(
        scored,
        ScoredCall,
        f"{location.folder}/part-{executed.shard_index:05d}.parquet",
        shard_index=executed.shard_index,
        counts={"scored": len(scored)},
    )


@effect_task
def pool_results(executed: Sequence[ShardRef]) -> tuple[str, ...]:
    """Results of one tool for the control with a wrong result, from all shards."""
    return result_pool(call for shard in executed for call in read_shard(shard, ExecutedCall))


@shard_task("filter", STAGE_VERSION)
def filter_shard(
    scored: ShardRef, tool: str, filtering_threshold: float, location: Location
) -> ShardRef:
    """Keep or drop every scored call of the shard; `tool` parts empty shards of two tools."""
    decisions = filter_calls(read_shard(scored, ScoredCall), filtering_threshold)
    return write_shard(
        decisions,
        FilterDecision,
        f"{location.folder}/part-{scored.shard_index:05d}.parquet",
        shard_index=scored.shard_index,
        counts=dict(Counter(decision.drop_reason or "kept" for decision in decisions)),
    )
