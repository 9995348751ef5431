"""Call rule: when the calls of M* start, chosen on texts that it was not trained on."""

from pathlib import Path

from prefect import flow

from tasks.call_rule import call_rule_shards
from tasks.output.manifests import load_stage
from tasks.running.policies import MODEL_RUNNER, Location, run_one
from tasks.tracking.runs import track_call_rule
from toolformer_core.call_rule import CallChoice
from toolformer_core.config.finetune import FinetuneConfig
from toolformer_core.config.pipeline import PipelineConfig
from toolformer_core.config.runtime import Runtime
from toolformer_core.models import ModelRef


@flow(name="call_rule", flow_run_name="call_rule", task_runner=MODEL_RUNNER)
def call_rule(
    augmented: Path, documents: Path, tuned: ModelRef, config: FinetuneConfig, runtime: Runtime
) -> CallChoice:
    """The rule of a model that was tuned on this C* with these settings."""
    # No other setting decides what was held out.
    split = config.model_dump(include={"seed", "dev_fraction", "plain_text_share"})
    choice, _ = run_one(
        call_rule_shards,
        {
            "augmented": list(load_stage(augmented).shards),
            "documents": list(load_stage(documents).shards),
            "model": tuned,
            "config": FinetuneConfig(**split),
            "location": Location(folder="", runtime=runtime),  # it makes no file
        },
        runtime=runtime,
        name="call_rule-all-00000",
        is_intact=lambda _: True,
    )
    return choice


def choose_calls(
    config: PipelineConfig,
    augmented: Path,
    documents: Path,
    tuned: ModelRef,
    runtime: Runtime,
    tracking: str,
) -> CallChoice | None:
    """The rule of a tuned model; None where the settings say when a call starts, or it has none."""
    if not config.chooses_calls:
        return None
    choice = call_rule(augmented, documents, tuned, config.finetune, runtime)
    track_call_rule(tracking, choice, runtime)
    return choice
