"""The command that runs tasks of lm-evaluation-harness: toolformer harness."""

import importlib.util
from typing import Annotated

import typer

from flows.starting import environment as settings
from flows.starting.inputs import split_names
from flows.starting.options import CallStart, ToolsOption, TunedOption
from toolformer_core.config.runtime import Device
from toolformer_core.errors import ConfigError

FOREIGN_OPTIONS = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Context settings of the command: options that are not its own are lm-eval's."""


def harness(
    context: typer.Context,
    model: TunedOption,
    start: CallStart,
    place: Device,
    tools: ToolsOption = "",
    context_tokens: Annotated[
        int | None,
        typer.Option(min=2, help="Window of loglikelihoods; without it, all the model takes."),
    ] = None,
) -> None:
    """Run tasks of lm-evaluation-harness on a tuned model with its tools.

    All other options are those of `lm-eval run`: --tasks, --include_path, --limit, --num_fewshot,
    --output_path, --log_samples ...
    """
    settings.apply_defaults()
    if importlib.util.find_spec("lm_eval") is None:
        raise ConfigError('harness needs lm-eval; pip install "toolformer-prefect[harness]"')
    from tasks.harness import run_harness

    given = {
        "pretrained": str(model),
        "tools": split_names(tools),
        **dict(start),
        "context_tokens": context_tokens,
        "home": str(settings.home()),
    }
    settings.show_progress()
    run_harness(
        {name: value for name, value in given.items() if value is not None},
        place.device,
        context.args,
    )
