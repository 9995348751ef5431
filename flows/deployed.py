"""What a schedule, the Prefect UI or its API starts: flows whose parameters draw readable forms.

Each makes its settings as the command line does and runs the same flows; what they may be given is
checked by Prefect's API before anything starts. Folders are those of the machine that the worker
runs on. Heavy packages are imported inside, so that registering a flow does not load them.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from prefect import flow
from pydantic import Field

from flows.starting import environment as settings
from flows.starting.inputs import build_config, build_runtime, varied_settings
from flows.starting.options import Method, Varied
from toolformer_core.config.base import Settings
from toolformer_core.config.runtime import AnnotationPlace
from toolformer_core.evaluation.gate import TEXT_ARM, TOOL_ARM, GateConfig

if TYPE_CHECKING:
    from toolformer_core.config.pipeline import PipelineConfig
    from toolformer_core.config.runtime import Runtime


class Place(AnnotationPlace):
    """Where and how fast it runs; no result depends on it."""

    out: str = Field(title="Output folder", description="Shards, index, report, model.")
    tracking: str = Field(
        default="",
        title="MLflow",
        description="Address of the tracking store; if none is given, a file in TOOLFORMER_HOME.",
    )


class Training(Settings):
    """What the weekly model is made from and asked."""

    data: str = Field(title="Annotations", description="Output folder of the nights.")
    benchmarks: list[str] = Field(
        default=[],
        title="More benchmarks",
        description="Shown beside those of the gate: NAME, NAME=PATH or NAME=hf:NAME/CONFIG:SPLIT.",
    )
    limit: int | None = Field(
        default=None, ge=1, title="Items per benchmark", description="None: all."
    )
    changes: list[str] = Field(
        default=[],
        title="Single settings",
        description="Besides those of the nights, as in finetune.num_steps=500",
    )


@flow(name="nightly-annotation", flow_run_name="nightly-annotation {place.out}")
def nightly_annotation(method: Method, place: Place) -> None:
    """Annotate the documents that the folder does not hold yet; those that it holds stay.

    Of each source corpus.max_documents new ones at most, a night; without new ones nothing is
    computed.
    """
    config, runtime = _prepared(method, place, annotate_only=True, add=True)
    from flows.pipeline import annotate

    annotate(config, runtime, add=True)


@flow(name="weekly-training", flow_run_name="weekly-training {place.out}")
def weekly_training(training: Training, gate: GateConfig, place: Place) -> None:
    """Fine-tune on what the nights have made, evaluate, and let the model in if it is better.

    A model that passes the gate is registered in MLflow and gets the alias champion.
    """
    settings.apply_defaults()
    settings.show_progress()
    from flows.champion import train_champion
    from flows.starting.claim import check_gate, check_method, claim_output, stage_manifest
    from tasks.output.record import read_run

    nights = read_run(Path(training.data).absolute())
    augmented, documents = (
        stage_manifest(nights, stage, Path(training.data)) for stage in ("augment", "corpus")
    )
    config = training_config(nights.config, training, gate)
    runtime = _runtime(place)
    check_gate(gate, config.evaluate.seed)
    check_method(config, runtime, annotate_only=False)
    claim_output(config, runtime.root, update=True)
    train_champion(augmented, documents, config, gate, runtime)


@flow(name="pipeline", flow_run_name="pipeline {place.out}")
def pipeline(method: Method, place: Place) -> None:
    """The whole method: corpus, sample, execute, filter, augment, finetune, evaluate, report."""
    config, runtime = _prepared(method, place, annotate_only=False)
    from flows.pipeline import run_pipeline

    run_pipeline(config, runtime)


@flow(name="parameter-sweep", flow_run_name="sweep {place.out}")
def sweep(method: Method, varied: Varied, place: Place) -> None:
    """Every combination of some settings; what two have in common is done once."""
    settings.apply_defaults()
    settings.show_progress()
    from flows.starting.claim import check_inputs, name_proposer
    from flows.sweep import sweep as run_sweep
    from toolformer_core.config.variations import cells, needs_training

    runtime = _runtime(place)
    config = name_proposer(build_config(method), runtime)
    variations = varied_settings(varied)
    for cell in cells(config, variations):
        check_inputs(cell.config, runtime, annotate_only=not needs_training(variations))
    run_sweep(config, variations, runtime)


def _prepared(
    method: Method, place: Place, *, annotate_only: bool, add: bool = False
) -> "tuple[PipelineConfig, Runtime]":
    """Settings and place, all inputs looked at and the folder claimed."""
    settings.apply_defaults()
    settings.show_progress()
    from flows.starting.claim import prepare_run

    runtime = _runtime(place)
    config = build_config(method)
    config = prepare_run(config, runtime, annotate_only=annotate_only, update=True, add=add)
    return config, runtime


def _runtime(place: Place) -> "Runtime":
    return build_runtime(Path(place.out), place)


def training_config(
    config: "PipelineConfig", training: Training, gate: GateConfig
) -> "PipelineConfig":
    """The settings of the nights, with the benchmarks and arms that the gate compares.

    Without arm base_c, which would have a second model fine-tuned every week.
    """
    from toolformer_core.config.overrides import edit

    config = edit(config, training.changes)
    benchmarks = [gate.benchmark, gate.texts, *training.benchmarks]
    arms = [*config.evaluate.arms, TEXT_ARM, TOOL_ARM]
    values = {
        "evaluate.benchmarks": list(dict.fromkeys(benchmarks)),
        "evaluate.arms": [arm for arm in dict.fromkeys(arms) if arm != "base_c"],
    }
    limit = {} if training.limit is None else {"evaluate.limit": training.limit}
    return edit(config, [], {**values, **limit})
