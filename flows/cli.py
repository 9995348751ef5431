"""The command line: `toolformer COMMAND --help`.

Heavy packages are imported inside the commands, so that --help and the light commands answer at
once. Bad input ends with one line on standard error and exit code 2; a run that kept no call ends
with its diagnosis and exit code 1, and so does one that an outage ended.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from flows import settings
from flows.cli_calibrate import calibrate_calls
from flows.cli_decode import evaluate, generate, serve
from flows.cli_finetune import finetune
from flows.cli_gc import gc
from flows.cli_harness import FOREIGN_OPTIONS, harness
from flows.cli_plan import plan
from flows.cli_sweep import sweep
from flows.cli_sync import sync
from flows.cli_tools import build_index, tools_app
from flows.cli_trace import trace
from flows.endings import ending
from flows.inputs import build_config, build_runtime, preset_folder, print_json
from flows.options import (
    AddOption,
    Called,
    Chosen,
    JsonOption,
    Method,
    ModelOption,
    OutOption,
    ReplayOption,
    RunOption,
    UpdateOption,
    drawn,
)
from toolformer_core.config import PipelineConfig, Runtime
from toolformer_core.errors import ConfigError
from toolformer_core.runtime import AnnotationPlace, Device, ProposerPlace

app = typer.Typer(
    help="Teach a causal language model to use tools, from plain text and without labels.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


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


def funnel(out: RunOption, as_json: JsonOption = False) -> None:
    """Counts by reason: documents, positions, calls, parsed, executed, scored, kept."""
    from flows.show import print_funnel
    from tasks.index import funnel as read_funnel

    counts = read_funnel(_index(out))
    print_json(counts) if as_json else print_funnel(counts)


def calls(
    out: RunOption,
    sql: Annotated[
        str, typer.Option(help="Any query over the views; candidates has one row per call.")
    ] = "SELECT tool, argument, result, loss_reduction, kept, reason FROM candidates "
    "ORDER BY kept DESC, loss_reduction DESC NULLS LAST",
    limit: Annotated[int, typer.Option(min=1, help="Most rows printed.")] = 40,
    as_json: JsonOption = False,
) -> None:
    """Query the candidate calls (DuckDB; see README for the views)."""
    from flows.show import print_rows
    from tasks.index import query

    names, rows = query(_index(out), sql, limit)
    if as_json:
        print_json([dict(zip(names, row, strict=True)) for row in rows])
    else:
        print_rows(names, rows)


def explain(
    asked: Called,
    chosen: Chosen,
    place: Device,
    model: ModelOption = "",
    as_json: JsonOption = False,
) -> None:
    """Why one call is kept or dropped: its three losses, token by token."""
    settings.apply_defaults()
    from dataclasses import asdict

    from flows.explain import explain_text
    from flows.show import print_explanation
    from toolformer_core.records import Document

    text = asked.text
    document = Document(document_id="text", text=text, url=None, date=asked.date, source="--text")
    config = build_config(Method(**dict(chosen), model=model))
    runtime = build_runtime(settings.home() / "explain", place)
    explained = explain_text(document, asked.at, asked.call, asked.result, config, runtime)
    print_json(asdict(explained)) if as_json else print_explanation(explained, text)


def calibrate(
    method: Method,
    place: ProposerPlace,
    documents: Annotated[
        int, typer.Option(min=2, help="Documents tried: half decide, half check the prediction.")
    ] = 100,
    target: Annotated[
        float, typer.Option(min=0, max=1, help="Wanted share of good calls among the kept ones.")
    ] = 0.8,
    out: Annotated[
        Path | None, typer.Option("--out", help="YAML file for the calibrated settings.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Recommend tau_s, tau_f, positions and samples per tool; predict yield, hours and disk.

    sample.max_positions and sample.samples_per_position are the most that is tried.
    """
    settings.apply_defaults()
    from flows.calibrate import calibrate as run_calibrate
    from flows.output import check_inputs, name_proposer
    from flows.show import print_calibration
    from toolformer_core.overrides import dump_yaml

    if out and not out.parent.is_dir():
        raise ConfigError(f"--out {out}: no folder {out.parent}; make it first")
    runtime = build_runtime(settings.home() / "calibrate", place)
    config = name_proposer(build_config(method), runtime)
    settings.show_progress()
    check_inputs(config, runtime, annotate_only=True)
    report, calibrated = run_calibrate(config, documents, target, runtime)
    print_json(report) if as_json else print_calibration(report)
    if out:
        out.write_text(dump_yaml(calibrated.model_dump(mode="json")), encoding="utf-8")
        typer.echo(f"settings: toolformer annotate --config {out} --out DIR", err=True)


COMMANDS: dict[str, Callable[..., None]] = {
    "run": run,
    "annotate": annotate,
    "calibrate": calibrate,
    "plan": plan,
    "funnel": funnel,
    "calls": calls,
    "explain": explain,
    "finetune": finetune,
    "calibrate-calls": calibrate_calls,
    "generate": generate,
    "serve": serve,
    "evaluate": evaluate,
    "trace": trace,
    "sweep": sweep,
    "index": build_index,
    "sync": sync,
    "gc": gc,
}
"""In the order in which they are used."""

for _name, _command in COMMANDS.items():
    app.command(_name)(drawn(_command))
app.command("harness", context_settings=FOREIGN_OPTIONS)(drawn(harness))
app.add_typer(tools_app, name="tools")


def _index(out: Path) -> Path:
    from tasks.report import index_of

    return index_of(out)


def _run_flow(
    name: str, config: PipelineConfig, runtime: Runtime, *, update: bool, **options: bool
) -> None:
    """Check all inputs, claim the folder, then run a flow of flows.pipeline."""
    settings.apply_defaults()
    from flows import pipeline
    from flows.output import prepare_run

    settings.show_progress()
    annotate_only = name == "annotate"
    config = prepare_run(config, runtime, annotate_only=annotate_only, update=update, **options)
    getattr(pipeline, name)(config, runtime, **options)


def _show_run(root: Path, *, as_json: bool) -> None:
    """The funnel, the evaluation and where everything is."""
    from flows.show import print_run, run_summary

    summary = run_summary(root)
    print_json(summary) if as_json else print_run(summary)


def main() -> None:
    """Run the command line; errors become one line and an exit code (endings.py)."""
    sys.path.append(str(Path.cwd()))  # a heuristic of the user's own may lie here
    # Prefect would log an error with its traceback once per task and flow before it gets here.
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    try:
        app()
    except Exception as error:
        found = ending(error)
        if found is None:
            raise
        typer.echo(f"toolformer: {found[0]}", err=True)
        sys.exit(found[1])
