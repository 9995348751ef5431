"""Augment: the kept calls of all tools written into one shard of documents."""

from collections.abc import Sequence

from tasks.running.policies import Location, effect_task, shard_task
from toolformer_core.augment import STAGE_VERSION, augment_documents, example_cutoffs
from toolformer_core.config.pipeline import AugmentConfig
from toolformer_core.records import AugmentedDocument, Document, FilterDecision
from toolformer_core.shards import ShardRef, read_shard, write_shard


@effect_task
def tool_cutoffs(decisions: Sequence[ShardRef], config: AugmentConfig) -> dict[str, float]:
    """Per tool, the smallest loss_reduction that still enters C*."""
    rows = (row for ref in decisions for row in read_shard(ref, FilterDecision))
    return example_cutoffs(rows, config)


@shard_task("augment", STAGE_VERSION)
def augment_shard(
    documents: ShardRef,
    decisions: list[ShardRef],
    cutoffs: dict[str, float],
    config: AugmentConfig,
    location: Location,
) -> ShardRef:
    """The documents of the shard that have kept calls, with the calls."""
    rows = [row for ref in decisions for row in read_shard(ref, FilterDecision)]
    augmented = augment_documents(read_shard(documents, Document), rows, cutoffs, config)
    return write_shard(
        augmented,
        AugmentedDocument,
        f"{location.folder}/part-{documents.shard_index:05d}.parquet",
        shard_index=documents.shard_index,
        counts={
            "documents": len(augmented),
            "calls": sum(len(document.calls) for document in augmented),
            "kept": sum(decision.kept for decision in rows),
        },
    )
