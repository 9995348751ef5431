"""The command that tells what a run will cost: toolformer plan."""

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.inputs import build_config, print_json, split_names
from flows.options import ConfigOption, JsonOption, PresetOption, SetOption, ToolsOption
from toolformer_core.config import PipelineConfig
from toolformer_core.errors import ConfigError
from toolformer_core.overrides import edit, parse_config

MEASURED_ON = {"bfloat16": "cpu2", "float32": "cpu2-float32"}
"""Two CPU cores that multiply bfloat16, and two that do not."""


def plan(
    documents: Annotated[float, typer.Option(min=1, help="How many, as in 1e9.")],
    device: Annotated[
        str | None,
        typer.Option(
            help="What it shall run on: h200 or another name that is known, or a file of figures "
            "by python -m tests.bench.device; none: what was measured on."
        ),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            "--from", help="Output folder of a finished, smaller run; its settings, unless --config"
        ),
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="What toolformer calibrate --json printed, in a file.")
    ] = None,
    measured_on: Annotated[
        str | None,
        typer.Option(
            help="Device that the run or the calibration was made on; none: two CPU cores in the "
            "arithmetic that model.dtype takes here."
        ),
    ] = None,
    parameters: Annotated[
        float | None,
        typer.Option(min=1, help="Of the model, as in 6.7e9; none: those of the one measured."),
    ] = None,
    days: Annotated[
        float, typer.Option(min=0.01, help="In how many days annotation shall be done.")
    ] = 7.0,
    preset_name: PresetOption = "demo",
    config_file: ConfigOption = None,
    assignments: SetOption = None,
    tools: ToolsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Device hours, tool calls, disk, shards and workers for a corpus of a given size.

    Reckoned from a smaller run (--from), from a calibration, or else from the demo's texts as the
    device was measured with them.
    """
    from toolformer_core.plan import Question
    from toolformer_core.plan import plan as planned
    from toolformer_core.plan_costs import load_device

    if run is not None and calibration is not None:
        raise ConfigError("plan: --from and --calibration are two sources; pass one of them")
    if run is not None and config_file is None:
        config = _config_of(run, assignments, tools)
    else:
        config = build_config(preset_name, config_file, assignments, None, tools, None)
    if run is None and calibration is None and device is not None:
        measured_on = device  # its own figures, nothing to carry over
    measured_on = measured_on or _cores_of_here(config)
    question = Question(
        num_documents=int(documents),
        config=config,
        measured_on=load_device(measured_on),
        device=None if device is None else load_device(device),
        num_parameters=parameters,
        days=days,
    )
    found = planned(_measured(run, calibration, measured_on, question), question)
    print_json(found) if as_json else _print_plan(found)


def _config_of(run: Path, assignments: list[str] | None, tools: str | None) -> PipelineConfig:
    """The settings of a run, with --tools and --set."""
    from tasks.publish import read_run

    content, _ = read_run(run)
    if tools:
        content["tools"]["enabled"] = split_names(tools)
    return edit(parse_config(content), assignments or [])


def _cores_of_here(config: PipelineConfig) -> str:
    """The known device that is most like this machine's CPU."""
    from toolformer_core.arithmetic import taken_dtype

    return MEASURED_ON[taken_dtype(config.model.dtype, "cpu")]


def _measured(
    run: Path | None, calibration: Path | None, name: str, question: Any
) -> Any:  # Any: types of the core, which is imported in the command
    from toolformer_core.plan_costs import load_calibration, of_device, of_run

    if calibration is not None:
        return load_calibration(calibration)
    if run is None:
        return of_device(name, question.measured_on)
    from tasks.publish import read_run, run_seconds
    from toolformer_core.shards import read_manifest

    _, manifests = read_run(run)
    return of_run([read_manifest(path) for path in manifests], run_seconds(run), run)


def _print_plan(found: dict[str, Any]) -> None:  # Any: nested figures
    annotate, advice = found["annotate"], found["recommended"]
    calls = annotate["tool_calls"]
    rows = {
        "measured": f"{found['measured']['documents']} documents of {found['measured']['from']}",
        "annotate": f"{_time(annotate['device_hours'])} of the device for "
        f"{found['documents']:,} documents, {_time(annotate['wall_seconds'] / 3600)} from start "
        f"to end with {advice['workers']} {'worker' if advice['workers'] == 1 else 'workers'}",
        **{
            f"  {tool}": f"{_time(row['device_hours'])}, {row['kept']:,.0f} kept calls"
            for tool, row in annotate["by_tool"].items()
        },
        "tools": f"{'unknown number of' if calls is None else f'{calls:,.0f}'} calls, "
        f"{_time(annotate['tool_hours'])}",
        "disk": f"{found['disk_bytes'] / 1e9:,.3f} GB, index included",
        "finetune": _time(found["finetune"]["device_hours"]),
        "evaluate": _time(found["evaluate"]["device_hours"]),
        "shards": f"{advice['shards']:,} of {advice['documents_per_shard']:,} documents "
        f"(corpus.documents_per_shard), {advice['tasks']:,} tasks",
    }
    for name, text in rows.items():
        typer.echo(f"{name:14} {text}")


def _time(hours: float) -> str:
    """Hours, or seconds where it is less than two of them."""
    return f"{hours * 3600:,.0f} s" if hours < 2 else f"{hours:,.0f} h"
