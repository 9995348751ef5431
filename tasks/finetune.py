"""Finetune: C* in, a tuned model folder out."""

from pathlib import Path

from tasks.running.policies import Location, shard_task
from tasks.tracking.runs import live_metrics
from toolformer_core.config.finetune import FinetuneConfig
from toolformer_core.finetune import STAGE_VERSION, FinetuneResult
from toolformer_core.finetune_process import FinetuneJob, launch_job, run_job
from toolformer_core.models import ModelRef, folder_digest
from toolformer_core.shards import ShardRef


@shard_task("finetune", STAGE_VERSION, tag="gpu")
def finetune_shards(
    augmented: list[ShardRef],
    documents: list[ShardRef],
    base: ModelRef,
    config: FinetuneConfig,
    location: Location,
) -> FinetuneResult:
    """Fine-tune the base model on all shards of C*; a retry resumes from the last checkpoint."""
    runtime = location.runtime
    job = FinetuneJob(
        augmented=tuple(augmented),
        documents=tuple(documents),
        base=base,
        config=config,
        folder=Path(location.folder),
        device=runtime.device,
    )
    with live_metrics(location.tracking, "finetune", runtime) as report:
        if runtime.accelerate_config is None:
            return run_job(job, report)
        return launch_job(job, runtime.accelerate_config, report)


def model_is_intact(result: FinetuneResult) -> bool:
    """Whether the tuned model's folder is there and whole."""
    model = result.model
    return folder_digest(Path(model.path), model.dtype) == model.digest
