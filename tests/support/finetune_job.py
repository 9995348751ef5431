"""A small fine-tuning job: a shard of C* with sums, nine steps on a tiny model; two processes."""

from pathlib import Path

import yaml

from tests.support.builders import document, filter_decision
from toolformer_core.augment import insert_calls
from toolformer_core.config.finetune import FinetuneConfig
from toolformer_core.finetune_process import FinetuneJob
from toolformer_core.models import ModelRef, folder_digest
from toolformer_core.records import AugmentedDocument
from toolformer_core.shards import write_shard

TWO_ON_CPU = {
    "compute_environment": "LOCAL_MACHINE",
    "distributed_type": "MULTI_GPU",  # as accelerate calls several processes, also on CPUs
    "use_cpu": True,
    "num_processes": 2,
    "num_machines": 1,
    "machine_rank": 0,
    "main_process_port": 0,  # any free one
    "mixed_precision": "bf16",  # has no say: the base model has float32
}


def two_on_cpu(folder: Path) -> Path:
    """Accelerate's configuration file for two processes on CPUs."""
    path = folder / "two.yaml"
    path.write_text(yaml.safe_dump(TWO_ON_CPU))
    return path


def finetune_job(folder: Path, base: Path) -> FinetuneJob:
    """Checkpoints after every second step and after the last."""
    texts = [
        insert_calls(
            document(document_id=f"document-{n}", text=f"{n} and 5 are {n + 5}." + " Late." * n),
            [filter_decision(char_offset=len(f"{n} and 5 are"), argument=f"{n} + 5")],
        )
        for n in range(12)
    ]
    shard = write_shard(texts, AugmentedDocument, folder / "part.parquet", shard_index=0, counts={})
    return FinetuneJob(
        augmented=(shard,),
        documents=(),
        base=ModelRef(path=str(base), digest=folder_digest(base, "float32"), dtype="float32"),
        config=FinetuneConfig(
            learning_rate=1e-3,
            num_steps=9,
            batch_size=4,
            micro_batch_size=2,
            max_sequence_tokens=64,
            eval_every_steps=2,
            dev_fraction=0.2,
        ),
        folder=folder / "whole",
        device="cpu",
    )
