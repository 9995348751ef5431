"""The commands of a tuned model: toolformer generate, serve and evaluate."""

import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from flows.starting import environment as settings
from flows.starting.inputs import build_runtime, print_json, split_names
from flows.starting.options import (
    Asked,
    ChangesOption,
    Decoding,
    JsonOption,
    OutOption,
    ToolsOption,
    TunedOption,
    UpdateOption,
)
from toolformer_core.config.runtime import Device, Place
from toolformer_core.errors import ConfigError


def generate(
    model: TunedOption,
    decoding: Decoding,
    place: Device,
    text: Annotated[
        str | None,
        typer.Argument(help="Text to continue; without it, standard input or a prompt."),
    ] = None,
    tools: ToolsOption = "",
    as_json: JsonOption = False,
) -> None:
    """Continue a text with a tuned model that runs its tools.

    What is not given is as in the model's toolformer.json.
    """
    settings.apply_defaults()
    from flows.cli.show_generation import last_generation, show_generation
    from flows.direct.inference import generate_events, generation_figures
    from tasks.inference import open_tuned_model

    runtime = build_runtime(settings.home() / "generate", place)
    tuned = open_tuned_model(model, split_names(tools), decoding.given(), runtime)
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
    place: Device,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any that is free.")
    ] = 8000,
    tools: ToolsOption = "",
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
) -> None:
    """Serve OpenAI's completions and chat completions with a model that runs its tools."""
    settings.apply_defaults()
    from flows.direct.serve import build_server, listen, run_server

    with listen(host, port) as listener:
        server = build_server(
            model,
            split_names(tools),
            build_runtime(settings.home() / "serve", place),
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
    asked: Asked,
    place: Place,
    changes: ChangesOption = None,
    out: OutOption = None,
    update: UpdateOption = False,
    as_json: JsonOption = False,
) -> None:
    """Evaluate a tuned model against its controls."""
    settings.apply_defaults()
    from flows.cli.tables import print_scores
    from flows.direct.inference import evaluate_model, evaluation_config
    from flows.starting.claim import claim_output
    from tasks.report.artifacts import PAGE
    from tasks.running.runners import check_runner
    from toolformer_core.transformers_lm.loading import check_device

    root = out or settings.home() / "evaluate"
    runtime = build_runtime(root, place)
    check_device(place.device)
    check_runner(runtime)
    config = evaluation_config(model, asked, changes or [])
    # Without --out the folder is that of all evaluations.
    claim_output(config, root, update=update or out is None)
    settings.show_progress()
    scores = evaluate_model(model, config, runtime)
    print_json(scores) if as_json else print_scores(scores)
    typer.echo(f"report: {root / PAGE}", err=True)
