"""Finetune: M* from C*."""

from pathlib import Path

from prefect import flow

from tasks._policies import MODEL_RUNNER, run_one
from tasks.finetune import finetune_shards, model_is_intact
from tasks.prepare import prepare_model
from tasks.publish import describe_model, load_stage
from toolformer_core.config import FinetuneConfig, PipelineConfig, Runtime
from toolformer_core.finetune import STAGE_VERSION, FinetuneResult
from toolformer_core.fingerprint import fingerprint
from toolformer_core.models import ModelRef
from toolformer_core.shards import stage_folder


@flow(name="finetune", flow_run_name="finetune", task_runner=MODEL_RUNNER)
def finetune(
    augmented: Path, base: ModelRef, config: FinetuneConfig, runtime: Runtime
) -> FinetuneResult:
    """The tuned model and its loss curves."""
    inputs = {"augmented": list(load_stage(augmented).shards), "base": base, "config": config}
    identity = fingerprint("finetune", STAGE_VERSION, inputs)
    folder = stage_folder(runtime.root, "finetune", "all", identity)
    tuned, _ = run_one(
        finetune_shards,
        {**inputs, "folder": folder, "runtime": runtime},
        root=runtime.root,
        name="finetune-all-00000",
        is_intact=model_is_intact,
    )
    return tuned


@flow(name="finetune-run")
def finetune_run(augmented: Path, config: PipelineConfig, runtime: Runtime) -> Path:
    """Fine-tune on the C* of another run; the tuned model's folder."""
    base = prepare_model(config.model, runtime)
    tuned = finetune(augmented, base, config.finetune, runtime)
    return describe_model(tuned.model, base, config, runtime.root)
