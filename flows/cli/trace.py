"""The command that tells what taught a call: toolformer trace."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from flows.starting import environment as settings
from flows.starting.inputs import build_runtime, print_json
from flows.starting.options import JsonOption, RunOption
from toolformer_core.config.runtime import Device
from toolformer_core.errors import ConfigError
from toolformer_core.notation import END, START, ParsedCall, parse_call

Facts = Mapping[str, Any]  # Any: anything JSON can hold


def trace(
    out: RunOption,
    call: Annotated[str | None, typer.Option(help="As in 'Calculator(34 + 57)'.")] = None,
    item: Annotated[
        str | None,
        typer.Option(help="BENCHMARK:ITEM_ID: the calls that the tuned model made there."),
    ] = None,
    document: Annotated[
        str | None, typer.Option(help="A document_id: the calls in C* that stand in it.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Training calls shown for each call.")] = 5,
    tracking: Annotated[
        str | None, typer.Option(help="MLflow's address, if it is not the file in TOOLFORMER_HOME.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """From a call back to what taught it: the model, its C*, and the training calls most like it.

    Each with its document, source, licence, tool version, losses and threshold. Similarity is the
    share of characters that two arguments have in common in the same order: 1 if they are equal.
    """
    settings.apply_defaults()
    if sum(given is not None for given in (call, item, document)) != 1:
        raise ConfigError("trace: of what? pass one of --call, --item and --document")
    from tasks.trace import trace_call, trace_document, trace_item

    runtime = build_runtime(out, Device(), tracking=tracking or "")
    root = runtime.root
    if call is not None:
        found = trace_call(root, _parsed(call), limit, runtime)
    elif item is not None:
        found = trace_item(root, *_item(item), limit, runtime)
    else:
        found = trace_document(root, str(document), runtime)
    print_json(found) if as_json else _print(found)


def _parsed(call: str) -> ParsedCall:
    is_open = not call.strip().startswith(START)
    return parse_call(f"{START}{call.strip()}{END}" if is_open else call.strip())


def _item(text: str) -> tuple[str, str]:
    benchmark, colon, item_id = text.partition(":")
    if not (colon and benchmark and item_id):
        raise ConfigError(f"--item {text}: expected BENCHMARK:ITEM_ID, as in dateset:12")
    return benchmark, item_id


def _print(found: Facts) -> None:
    from flows.cli.tables import print_plain

    for name in ("item", "model", "augmented"):
        for key, value in (found.get(name) or {}).items():
            print_plain(f"{name} {key}: {'-' if value is None else value}")
    if "item" in found and not found["traces"]:
        print_plain("The tuned model made no call there.")
    for one in found["traces"]:
        _print_trace(one)


def _print_trace(one: Facts) -> None:
    from flows.cli.tables import print_plain, print_rows

    said = "is in C*" if one["in_augmented"] else "is not in C*"
    if "document" in one:
        print_plain(f"document {one['document']} {said}")
    else:
        others = "" if one["calls"] else ", nor is any other call to that tool"
        print_plain(f"{one['tool']}({one['argument']}) {said}{others}")
    if not one["calls"]:
        return
    print_rows(
        ["similarity", "training call", "loss_reduction", "tau_f", "tool", "document"],
        [_row(training) for training in one["calls"]],
    )


def _row(training: Facts) -> list[Any]:  # Any: cells
    origin = ("document_id", "source", "date", "url", "licence")
    return [
        training.get("similarity"),
        f"{training['argument']} -> {training['result']}",
        training["loss_reduction"],
        training["filtering_threshold"],
        f"{training['tool']} {training['tool_version']}",
        ", ".join(training[name] for name in origin if training[name]),
    ]
