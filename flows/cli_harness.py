"""The command that runs tasks of lm-evaluation-harness: toolformer harness."""

import importlib.util
from typing import Annotated

import typer

from flows import settings
from flows.inputs import split_names
from flows.options import DeviceOption, ToolsOption, TunedOption
from toolformer_core.errors import ConfigError

FOREIGN_OPTIONS = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Context settings of the command: options that are not its own are lm-eval's."""


def harness(
    context: typer.Context,
    model: TunedOption,
    tools: ToolsOption = None,
    call_top_k: Annotated[
        int | None, typer.Option(help="Start a call when <API> ranks among the top k.")
    ] = None,
    call_threshold: Annotated[
        float | None, typer.Option(help="Start a call when p(<API>) is at least this.")
    ] = None,
    disable_calls: Annotated[bool, typer.Option("--disable-calls", help="Forbid calls.")] = False,
    context_tokens: Annotated[
        int | None,
        typer.Option(min=2, help="Window of loglikelihoods; without it, all the model takes."),
    ] = None,
    device: DeviceOption = "cpu",
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
        "call_top_k": call_top_k,
        "call_threshold": call_threshold,
        "disable_calls": disable_calls,
        "context_tokens": context_tokens,
        "home": str(settings.home()),
    }
    settings.show_progress()
    run_harness(
        {name: value for name, value in given.items() if value is not None}, device, context.args
    )
