"""A generation in the terminal, as it happens."""

from collections.abc import Iterator

import typer
from rich.console import Console
from rich.text import Text

from toolformer_core.decoding.events import (
    CallFinished,
    CallStarted,
    DecodedCall,
    Event,
    Finished,
    Generation,
    TextPiece,
)
from toolformer_core.notation import END
from toolformer_core.records import Outcome


def last_generation(events: Iterator[Event]) -> Generation:
    """What has come out once everything has happened."""
    return next(event.generation for event in events if isinstance(event, Finished))


def show_generation(prompt: str, events: Iterator[Event]) -> None:
    """The text and its continuation, piece by piece.

    On a terminal a call is shown when it starts, in colour, and one that is taken back with its
    reason. Elsewhere the text is that of the completion, and calls that were taken back are told
    on standard error.
    """
    console = Console()
    if console.is_terminal:
        console.print(Text(prompt, "dim"), end="", soft_wrap=True)
        for event in events:
            console.print(_coloured(event), end="", soft_wrap=True)
    else:
        typer.echo(prompt, nl=False)
        for piece in _pieces(events):
            typer.echo(piece, nl=False)
    typer.echo()


def _coloured(event: Event) -> Text:
    """What an event adds to a text on a terminal."""
    match event:
        case TextPiece():
            return Text(event.text)
        case CallStarted():
            return Text(event.written, "cyan")
        case CallFinished(call=call) if call.outcome is Outcome.OK:
            return Text(event.rest, "green")
        case CallFinished(call=call):
            return Text(f" {_why(call)}{END}", "red")
    return Text()


def _pieces(events: Iterator[Event]) -> Iterator[str]:
    """The completion."""
    begun = ""
    for event in events:
        match event:
            case TextPiece():
                yield event.text
            case CallStarted():
                begun = event.written
            case CallFinished(call=call) if call.outcome is Outcome.OK:
                yield f"{begun}{event.rest}"
            case CallFinished(call=call):
                typer.echo(f"taken back: {call.tool}({call.argument}) {_why(call)}", err=True)


def _why(call: DecodedCall) -> str:
    return f"{call.outcome.value}: {call.reason}".rstrip(": ")
