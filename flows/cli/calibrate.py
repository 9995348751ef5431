"""The command that recommends settings for a corpus: toolformer calibrate."""

from pathlib import Path
from typing import Annotated

import typer

from flows.starting import environment as settings
from flows.starting.inputs import build_config, build_runtime, print_json
from flows.starting.options import JsonOption, Method
from toolformer_core.config.runtime import ProposerPlace
from toolformer_core.errors import ConfigError


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
    from flows.cli.tables import print_calibration
    from flows.starting.claim import check_inputs, name_proposer
    from toolformer_core.yaml_text import dump_yaml

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
