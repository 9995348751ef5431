"""The commands of a tuned model: toolformer generate, serve and evaluate."""

import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from flows import settings
from flows.inputs import build_runtime, print_json, split_names
from flows.options import (
    DeviceOption,
    JsonOption,
    OutOption,
    RunnerAddressOption,
    RunnerOption,
    RunnerWorkersOption,
    SetOption,
    StorageOption,
    ToolsOption,
    TunedOption,
    UpdateOption,
)
from toolformer_core.errors import ConfigError


def generate(
    model: TunedOption,
    text: Annotated[
        str | None,
        typer.Argument(help="Text to continue; without it, standard input or a prompt."),
    ] = None,
    call_top_k: Annotated[
        int | None, typer.Option(help="Start a call when <API> ranks among the top k.")
    ] = None,
    call_threshold: Annotated[
        float | None, typer.Option(help="Start a call when p(<API>) is at least this.")
    ] = None,
    max_calls: Annotated[int | None, typer.Option(help="Most calls per text.")] = None,
    tools: ToolsOption = None,
    disable_calls: Annotated[bool, typer.Option("--disable-calls", help="Forbid calls.")] = False,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Tokens that the model writes, its calls included.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Nucleus, if not greedy.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the draws, if not greedy.")] = None,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Continue a text with a tuned model that runs its tools.

    What is not given is as in the model's toolformer.json.
    """
    settings.apply_defaults()
    from flows.inference import generate_events, generation_figures
    from flows.show_generation import last_generation, show_generation
    from tasks.inference import open_tuned_model

    given = {
        "call_top_k": call_top_k,
        "call_threshold": call_threshold,
        "max_calls": 0 if disable_calls else max_calls,
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "seed": seed,
    }
    runtime = build_runtime(settings.home() / "generate", device)
    tuned = open_tuned_model(model, split_names(tools), given, runtime)
    is_asked_for = text is None and sys.stdin.isatty()
    for one in _lines() if is_asked_for else [_piped() if text is None else text]:
        try:
            events = generate_events(tuned, one)
            if as_json:
                print_json(generation_figures(last_generation(events)))
            else:
                show_generation(one, events)
        except ConfigError as error:
            if not is_asked_for:
                raise
            typer.echo(f"toolformer: {error}", err=True)


def _lines() -> Iterator[str]:
    """What is typed, line by line, until an empty line or the end."""
    import readline  # noqa: F401 - gives input() a history and keys to edit with

    while True:
        try:
            line = input("> ")
        except EOFError:
            typer.echo()
            return
        if not line.strip():
            return
        yield line


def _piped() -> str:
    """The text on standard input.

    Raises: ConfigError if there is none.
    """
    text = sys.stdin.read().removesuffix("\n")
    if not text:
        raise ConfigError("generate: no text; pass one, as in toolformer generate 'The 34 apples'")
    return text


def serve(
    model: TunedOption,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any that is free.")
    ] = 8000,
    tools: ToolsOption = None,
    max_rows: Annotated[
        int,
        typer.Option(
            min=1,
            help="Most texts that are decoded together; memory is this many times the longest one.",
        ),
    ] = 32,
    max_waiting: Annotated[
        int, typer.Option(min=0, help="Most texts that wait; more are refused with 429.")
    ] = 256,
    show_calls: Annotated[
        bool, typer.Option("--show-calls", help="Write calls and results into the texts.")
    ] = False,
    device: DeviceOption = "cpu",
) -> None:
    """Serve OpenAI's completions and chat completions with a model that runs its tools."""
    settings.apply_defaults()
    from flows.serve import build_server, listen, run_server

    with listen(host, port) as listener:
        server = build_server(
            model,
            split_names(tools),
            build_runtime(settings.home() / "serve", device),
            max_rows=max_rows,
            max_waiting=max_waiting,
            show_calls=show_calls,
        )
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{listener.getsockname()[1]}/v1"
        typer.echo(f"{model.absolute().name} at {address}", err=True)
        run_server(server, listener)


def evaluate(
    model: TunedOption,
    benchmark: Annotated[
        list[str] | None,
        typer.Option(help="NAME, NAME=PATH or NAME=hf:NAME/CONFIG:SPLIT; repeatable."),
    ] = None,
    arms: Annotated[
        str, typer.Option(help="Of base, base_c, disabled, on, wrong, few_shot; by commas.")
    ] = "base,disabled,on",
    control: Annotated[
        str | None, typer.Option(help="Model of arm base_c: see finetune --without-calls.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Items per benchmark.")] = None,
    assignments: SetOption = None,
    out: OutOption = None,
    update: UpdateOption = False,
    storage: StorageOption = None,
    runner: RunnerOption = "threads",
    runner_workers: RunnerWorkersOption = 2,
    runner_address: RunnerAddressOption = None,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Evaluate a tuned model against its controls."""
    settings.apply_defaults()
    from flows.inference import evaluate_model, evaluation_config
    from flows.output import claim_output
    from flows.show import print_scores
    from tasks.report import PAGE
    from tasks.runners import check_runner
    from toolformer_core.models import check_device

    root = out or settings.home() / "evaluate"
    runtime = build_runtime(
        root,
        device,
        storage=storage,
        runner=runner,
        runner_workers=runner_workers,
        runner_address=runner_address,
    )
    check_device(device)
    check_runner(runtime)
    chosen = {
        "benchmarks": benchmark,
        "arms": split_names(arms),
        "limit": limit,
        "control": control,
    }
    config = evaluation_config(model, chosen, assignments or [])
    # Without --out the folder is that of all evaluations.
    claim_output(config, root, update=update or out is None)
    settings.show_progress()
    scores = evaluate_model(model, config, runtime)
    print_json(scores) if as_json else print_scores(scores)
    typer.echo(f"report: {root / PAGE}", err=True)


def add_commands(app: typer.Typer) -> None:
    """Put the commands of this module into the command line."""
    for command in (generate, serve, evaluate):
        app.command()(command)
