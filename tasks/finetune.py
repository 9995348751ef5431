"""Finetune: C* in, a tuned model folder out."""

from pathlib import Path

from tasks._policies import shard_task
from toolformer_core.config import FinetuneConfig, Runtime
from toolformer_core.finetune import STAGE_VERSION, FinetuneResult, finetune_model
from toolformer_core.models import ModelRef
from toolformer_core.records import AugmentedDocument
from toolformer_core.shards import ShardRef, read_shard


@shard_task("finetune", STAGE_VERSION, tag="gpu")
def finetune_shards(
    augmented: list[ShardRef],
    base: ModelRef,
    config: FinetuneConfig,
    folder: Path,
    runtime: Runtime,
) -> FinetuneResult:
    """Fine-tune the base model on all shards of C*; a retry resumes from the last checkpoint."""
    documents = [row for ref in augmented for row in read_shard(ref, AugmentedDocument)]
    return finetune_model(documents, base, config, folder, runtime.device)


def model_is_intact(result: FinetuneResult) -> bool:
    """Whether the tuned model's folder is there."""
    return (Path(result.model.path) / "config.json").is_file()
