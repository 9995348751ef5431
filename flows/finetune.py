"""Finetune: M* from C*."""

from pathlib import Path

from prefect import flow

from flows._hooks import close_failed
from flows.call_rule import choose_calls
from tasks.finetune import finetune_shards, model_is_intact
from tasks.output.manifests import load_stage
from tasks.output.model_card import describe_model
from tasks.prepare import prepare_model
from tasks.running.policies import MODEL_RUNNER, Location, run_one
from tasks.tracking.register import register_model
from tasks.tracking.runs import close_tracking, start_tracking, track_finetune
from toolformer_core.config.finetune import FinetuneConfig
from toolformer_core.config.pipeline import PipelineConfig
from toolformer_core.config.runtime import Runtime
from toolformer_core.finetune import STAGE_VERSION, FinetuneResult
from toolformer_core.fingerprint import fingerprint
from toolformer_core.models import ModelRef
from toolformer_core.shards import stage_folder


@flow(name="finetune", flow_run_name="finetune", task_runner=MODEL_RUNNER)
def finetune(
    augmented: Path,
    documents: Path,
    base: ModelRef,
    config: FinetuneConfig,
    runtime: Runtime,
    tracking: str | None,
) -> FinetuneResult:
    """The tuned model and its curves, which the run `tracking` has shown from the start."""
    inputs = {
        "augmented": list(load_stage(augmented).shards),
        "documents": list(load_stage(documents).shards) if config.plain_text_share else [],
        "base": base,
        "config": config,
    }
    identity = fingerprint("finetune", STAGE_VERSION, inputs)
    location = Location(
        folder=str(stage_folder(runtime.root, "finetune", "all", identity)),
        runtime=runtime,
        tracking=tracking,
    )
    tuned, _ = run_one(
        finetune_shards,
        {**inputs, "location": location},
        # Checkpoints and model lie in the root, so what refers to them does, too.
        runtime=runtime.model_copy(update={"storage": ""}),
        name="finetune-all-00000",
        is_intact=model_is_intact,
    )
    track_finetune(tracking, tuned, runtime)
    return tuned


@flow(name="finetune-run", on_failure=[close_failed], on_crashed=[close_failed])
def finetune_run(
    augmented: Path, documents: Path, config: PipelineConfig, runtime: Runtime
) -> Path:
    """Fine-tune on the C* of another run; the tuned model's folder."""
    tracking = start_tracking(config, runtime)
    base = prepare_model(config.model, runtime)
    tuned = finetune(augmented, documents, base, config.finetune, runtime, tracking)
    choice = choose_calls(config, augmented, documents, tuned.model, runtime, tracking)
    link = describe_model(tuned, base, config, augmented, runtime.root, choice=choice)
    if not config.finetune.without_calls:
        register_model(tracking, tuned.model, runtime)
    close_tracking(tracking, runtime)
    return link
