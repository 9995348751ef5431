"""The command that tells what a run will cost: toolformer plan."""

from pathlib import Path
from typing import Any

import typer

from flows.starting.inputs import build_config, print_json, split_names
from flows.starting.options import Chosen, Forecast, JsonOption, Method, ToolsOption
from toolformer_core.config.overrides import edit
from toolformer_core.config.pipeline import PipelineConfig
from toolformer_core.errors import ConfigError

MEASURED_ON = {"bfloat16": "cpu2", "float32": "cpu2-float32"}
"""Two CPU cores that multiply bfloat16, and two that do not."""


def plan(
    forecast: Forecast, chosen: Chosen, tools: ToolsOption = "", as_json: JsonOption = False
) -> None:
    """Device hours, tool calls, disk, shards and workers for a corpus of a given size.

    Reckoned from a smaller run (--from), from a calibration, or else from the demo's texts as the
    device was measured with them.
    """
    from toolformer_core.planning.costs import load_device
    from toolformer_core.planning.plan import Question
    from toolformer_core.planning.plan import plan as planned

    asked, device = forecast, forecast.device
    if asked.run is not None and asked.calibration is not None:
        raise ConfigError("plan: --from and --calibration are two sources; pass one of them")
    method = Method(**dict(chosen), tools=split_names(tools) or [])
    if asked.run is not None and not chosen.config_file:
        config = _config_of(asked.run, method)
    else:
        config = build_config(method)
    measured_on = asked.measured_on
    if asked.run is None and asked.calibration is None and device is not None:
        measured_on = device  # its own figures, nothing to carry over
    measured_on = measured_on or _cores_of_here(config)
    question = Question(
        num_documents=int(asked.documents),
        config=config,
        measured_on=load_device(measured_on),
        device=None if device is None else load_device(device),
        num_parameters=asked.parameters,
        days=asked.days,
    )
    found = planned(_measured(asked, measured_on, question), question)
    print_json(found) if as_json else _print_plan(found)


def _config_of(run: Path, method: Method) -> PipelineConfig:
    """The settings of a run, with --tools and --set."""
    from tasks.output.record import read_run

    values = {"tools.enabled": method.tools} if method.tools else {}
    return edit(read_run(run).config, method.changes, values)


def _cores_of_here(config: PipelineConfig) -> str:
    """The known device that is most like this machine's CPU."""
    from toolformer_core.transformers_lm.arithmetic import taken_dtype

    return MEASURED_ON[taken_dtype(config.model.dtype, "cpu")]


def _measured(
    asked: Forecast, name: str, question: Any
) -> Any:  # Any: types of the core, which is imported in the command
    from toolformer_core.planning.costs import load_calibration, of_device, of_run

    if asked.calibration is not None:
        return load_calibration(asked.calibration)
    if asked.run is None:
        return of_device(name, question.measured_on)
    from tasks.output.record import read_run
    from toolformer_core.shards import read_manifest

    done = read_run(asked.run)
    return of_run([read_manifest(path) for path in done.manifests], done.seconds, asked.run)


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
