"""The commands that run the method: toolformer run and annotate."""

from pathlib import Path

from flows.starting import environment as settings
from flows.starting.inputs import build_config, build_runtime, preset_folder, print_json
from flows.starting.options import (
    AddOption,
    JsonOption,
    Method,
    OutOption,
    ReplayOption,
    UpdateOption,
)
from toolformer_core.config.pipeline import PipelineConfig
from toolformer_core.config.runtime import AnnotationPlace, Runtime
from toolformer_core.errors import ConfigError


def run(
    method: Method,
    place: AnnotationPlace,
    out: OutOption = None,
    update: UpdateOption = False,
    as_json: JsonOption = False,
) -> None:
    """The whole method: corpus, sample, execute, filter, augment, finetune, evaluate, report.

    Unless the settings say when a call starts, that is chosen after fine-tuning, on held-out texts.
    """
    config, root = build_config(method), preset_folder(method, out)
    # Without --out the folder is the preset's own, and going on in it is what one wants.
    _run_flow("run_pipeline", config, build_runtime(root, place), update=update or out is None)
    _show_run(root, as_json=as_json)


def annotate(
    method: Method,
    place: AnnotationPlace,
    out: OutOption = None,
    update: UpdateOption = False,
    add: AddOption = False,
    replay: ReplayOption = None,
    as_json: JsonOption = False,
) -> None:
    """Corpus to augmented corpus C*, without fine-tuning.

    With --add only documents that the folder does not hold are annotated; those that it holds stay,
    also where the sources no longer have them.
    """
    if out is None:
        raise ConfigError("annotate: no output folder; pass --out DIR")
    config = build_config(method)
    runtime = build_runtime(out, place, replay=replay.absolute() if replay else None)
    _run_flow("annotate", config, runtime, update=update or add, add=add)
    _show_run(out, as_json=as_json)


def _run_flow(
    name: str, config: PipelineConfig, runtime: Runtime, *, update: bool, **options: bool
) -> None:
    """Check all inputs, claim the folder, then run a flow of flows.pipeline."""
    settings.apply_defaults()
    from flows import pipeline
    from flows.starting.claim import prepare_run

    settings.show_progress()
    annotate_only = name == "annotate"
    config = prepare_run(config, runtime, annotate_only=annotate_only, update=update, **options)
    getattr(pipeline, name)(config, runtime, **options)


def _show_run(root: Path, *, as_json: bool) -> None:
    """The funnel, the evaluation and where everything is."""
    from flows.cli.summary import run_summary
    from flows.cli.tables import print_run

    summary = run_summary(root)
    print_json(summary) if as_json else print_run(summary)
