"""What a schedule, the Prefect UI or its API starts: flows whose parameters draw readable forms.

Each makes its settings as the command line does and runs the same flows; what they may be given is
checked by Prefect's API before anything starts. Folders are those of the machine that the worker
runs on. Heavy packages are imported inside, so that registering a flow does not load them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from prefect import flow
from pydantic import Field

from flows import settings
from flows.inputs import build_config, build_runtime
from toolformer_core.gate import TEXT_ARM, TOOL_ARM, GateConfig
from toolformer_core.settings import Settings

if TYPE_CHECKING:
    from toolformer_core.config import PipelineConfig, Runtime
    from toolformer_core.variations import Variation

PresetName = Literal["demo", "smoke", "paper"]


class Method(Settings):
    """What is done: a preset or a file of settings, and what differs from it."""

    corpus: list[str] = Field(
        default=[],
        title="Texts",
        description="Paths, globs, URLs or hf: names. Empty: those of the preset or file.",
    )
    tools: list[str] = Field(
        default=[],
        title="Tools",
        description="As in Calculator, Calendar, WikiSearch, QA, MT, OCR. Empty: as in the preset.",
    )
    model: str = Field(
        default="",
        title="Model",
        description="Folder, hub id or GGUF file of the base model. Empty: as in the preset.",
    )
    preset: PresetName = Field(
        default="demo", title="Preset", description="The settings to start from."
    )
    config_file: str = Field(
        default="", title="File of settings", description="YAML, in place of the preset."
    )
    changes: list[str] = Field(
        default=[],
        title="Single settings",
        description="As in filter.filtering_threshold.Calculator=0.3",
    )


class Place(Settings):
    """Where and how fast it runs; no result depends on it."""

    out: str = Field(title="Output folder", description="Shards, index, report, model.")
    storage: str = Field(
        default="",
        title="Storage",
        description="Folder or URL of the shards, as in s3://BUCKET/PREFIX. Empty: the output "
        "folder.",
    )
    device: str = Field(default="cpu", title="Device", description="cpu, cuda, cuda:1 ...")
    tool_calls: int = Field(
        default=4, ge=1, le=1000, title="Calls of one tool at a time", description="Per process."
    )
    runner: Literal["threads", "dask", "ray"] = Field(
        default="threads", title="Runner", description="This process, or a cluster's workers."
    )
    runner_workers: int = Field(
        default=2, ge=1, title="Workers", description="Of a cluster that is started here."
    )
    runner_address: str = Field(
        default="", title="Cluster", description="Its scheduler. Empty: one is started here."
    )
    proposer: str = Field(
        default="",
        title="Proposer",
        description="Address of a model server that proposes calls: http://HOST:PORT/v1. Empty: "
        "the base model does.",
    )
    tracking: str = Field(
        default="",
        title="MLflow",
        description="Address of the tracking store. Empty: a file in TOOLFORMER_HOME.",
    )


class Varied(Settings):
    """What a sweep varies; all combinations are tried."""

    filtering_threshold: list[Annotated[float, Field(ge=0, le=10)]] = Field(
        default=[], title="tau_f", description="Filtering thresholds of all tools, in nats."
    )
    call_top_k: list[Annotated[int, Field(ge=0, le=1000)]] = Field(
        default=[],
        title="k of decoding",
        description="With it models are trained and evaluated; without, calls are counted.",
    )
    seeds: list[Annotated[int, Field(ge=0)]] = Field(
        default=[], title="Seeds", description="Of sampling, fine-tuning and evaluation."
    )
    models: list[str] = Field(default=[], title="Base models", description="Folders or hub ids.")
    others: list[str] = Field(
        default=[],
        title="Any other setting",
        description="As in score.token_weights=linear|flat",
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
    from flows.output import check_gate, check_method, claim_output, stage_manifest
    from tasks.publish import read_run

    content, manifests = read_run(Path(training.data).absolute())
    augmented, documents = (
        stage_manifest(manifests, stage, Path(training.data)) for stage in ("augment", "corpus")
    )
    config = training_config(content, training, gate)
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
    from flows.output import check_inputs, name_proposer
    from flows.sweep import sweep as run_sweep
    from toolformer_core.variations import cells, needs_training

    runtime = _runtime(place)
    config = name_proposer(_config(method), runtime)
    variations = list(varied_settings(varied))
    for cell in cells(config, variations):
        check_inputs(cell.config, runtime, annotate_only=not needs_training(variations))
    run_sweep(config, variations, runtime)


def _prepared(
    method: Method, place: Place, *, annotate_only: bool, add: bool = False
) -> "tuple[PipelineConfig, Runtime]":
    """Settings and place, all inputs looked at and the folder claimed."""
    settings.apply_defaults()
    settings.show_progress()
    from flows.output import prepare_run

    runtime = _runtime(place)
    config = prepare_run(
        _config(method), runtime, annotate_only=annotate_only, update=True, add=add
    )
    return config, runtime


def _config(method: Method) -> "PipelineConfig":
    return build_config(
        method.preset,
        Path(method.config_file) if method.config_file else None,
        method.changes,
        method.corpus,
        ",".join(method.tools) or None,
        method.model or None,
    )


def _runtime(place: Place) -> "Runtime":
    return build_runtime(
        Path(place.out),
        place.device,
        storage=place.storage or None,
        proposer_url=place.proposer or None,
        tool_calls=place.tool_calls,
        runner=place.runner,
        runner_workers=place.runner_workers,
        runner_address=place.runner_address or None,
        tracking_uri=place.tracking or None,
    )


def training_config(
    content: dict[str, Any],  # Any: settings of every kind
    training: Training,
    gate: GateConfig,
) -> "PipelineConfig":
    """The settings of the nights, with the benchmarks and arms that the gate compares.

    Without arm base_c, which would have a second model fine-tuned every week.
    """
    from toolformer_core.overrides import edit, parse_config

    config = edit(parse_config(content), training.changes)
    benchmarks = [gate.benchmark, gate.texts, *training.benchmarks]
    arms = [*config.evaluate.arms, TEXT_ARM, TOOL_ARM]
    evaluated = config.evaluate.model_dump(mode="json") | {
        "benchmarks": list(dict.fromkeys(benchmarks)),
        "arms": [arm for arm in dict.fromkeys(arms) if arm != "base_c"],
    }
    if training.limit is not None:
        evaluated["limit"] = training.limit
    return parse_config(config.model_dump(mode="json") | {"evaluate": evaluated})


def varied_settings(varied: Varied) -> "Iterator[Variation]":
    """What varies, as the command line reads it."""
    from toolformer_core import variations

    options = (
        (varied.models, variations.vary_model),
        (varied.seeds, variations.vary_seed),
        (varied.filtering_threshold, variations.vary_threshold),
        (varied.call_top_k, variations.vary_top_k),
    )
    for values, vary in options:
        if values:
            yield vary(",".join(map(str, values)))
    yield from map(variations.vary_setting, varied.others)
