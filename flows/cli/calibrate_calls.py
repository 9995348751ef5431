"""The command that finds when a tuned model had best call: toolformer calibrate-calls."""

from typing import Annotated

import typer

from flows.starting import environment as settings
from flows.starting.inputs import build_runtime, print_json
from flows.starting.options import JsonOption, TunedOption
from toolformer_core.config.runtime import Device


def calibrate_calls(
    model: TunedOption,
    place: Device,
    benchmark: Annotated[
        str,
        typer.Option(
            help="NAME, generated anew, or NAME=PATH, a file that is not the one you report on. "
            "Half of the items decide, half check."
        ),
    ],
    limit: Annotated[int | None, typer.Option(min=1, help="Items taken.")] = None,
    target_call_rate: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Wanted share of items that call; without it the rule is taken that gains most "
            "right answers per call.",
        ),
    ] = None,
    write: Annotated[
        bool,
        typer.Option(
            "--write",
            help="Put the rule into the model's toolformer.json; a run that makes the model anew, "
            "or from the cache, writes its own there again.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Recommend call_top_k, or a threshold on p(<API>), by the answers to a benchmark."""
    settings.apply_defaults()
    from flows.cli.tables import print_calls_calibration
    from flows.direct.calibrate_calls import calibrate_calls as run_calibration

    runtime = build_runtime(settings.home() / "calibrate", place)
    report = run_calibration(
        model,
        benchmark,
        limit=limit,
        target_call_rate=target_call_rate,
        writes=write,
        runtime=runtime,
    )
    print_json(report) if as_json else print_calls_calibration(report)
    if write and report["recommended"]:
        typer.echo(f"written to {model / 'toolformer.json'}", err=True)
