"""The command `toolformer sync`."""

from typing import Annotated, Any

import typer

from flows.starting import environment as settings
from flows.starting.inputs import print_json
from flows.starting.options import JsonOption, RunOption


def sync(
    out: RunOption,
    tracking_uri: Annotated[
        str | None,
        typer.Option("--tracking", help="MLflow's store, if it is not where it was."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Tell MLflow what it missed; make index and report anew if missing, damaged or outdated.

    Runs in MLflow whose process has died are closed as killed.
    """
    settings.apply_defaults()
    from tasks.output.record import RUN_FILE
    from tasks.sync import refresh
    from tasks.tracking.journal import TRACKING
    from tasks.tracking.store import require_all, settle

    root = out.absolute()
    told = list(settle(root, tracking_uri))
    rows = [one.summary() for one in told]
    if not as_json:  # now, because what comes then may end with an error
        _print_told(rows)
    only_tracked = (root / TRACKING).is_dir() and not (root / RUN_FILE).is_file()  # as by a sweep
    made = {} if only_tracked else refresh(root)
    if as_json:
        print_json({"made_anew": made, "mlflow": rows})
    else:
        _print_made(made, is_all=not any(map(_was_pending, rows)))
    require_all(told)


def _was_pending(row: dict[str, Any]) -> bool:  # Any: figures
    return bool(row["recorded"] or row["waiting"] or row["refused"])


def _print_told(rows: list[dict[str, Any]]) -> None:  # Any: figures
    for row in rows:
        killed = "; closed as killed, its process has died" if row["was_killed"] else ""
        if row["recorded"]:
            typer.echo(f"MLflow: run {row['run']}: {row['recorded']} records{killed}")
        for line in row["refused"]:
            typer.echo(f"MLflow: run {row['run']}: refused {line}")


def _print_made(made: dict[str, str], *, is_all: bool) -> None:
    for what, why in made.items():
        typer.echo(f"{what}: made anew, {why}")
    if is_all and not made:
        typer.echo("nothing to do: all is recorded")
