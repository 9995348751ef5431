"""The command `toolformer sync`."""

from typing import Annotated, Any

import typer

from flows import settings
from flows.inputs import print_json
from flows.options import JsonOption, RunOption


def sync(
    out: RunOption,
    tracking_uri: Annotated[
        str | None,
        typer.Option("--tracking-uri", help="MLflow's store, if it is not where it was."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Record what a run could not: in MLflow; its index and report, if missing or damaged.

    Runs in MLflow whose process has died are closed as killed.
    """
    settings.apply_defaults()
    from tasks.journal import journals
    from tasks.publish import RUN_FILE
    from tasks.sync import refresh
    from tasks.track_store import require_all, settle

    root = out.absolute()
    made = {} if journals(root) and not (root / RUN_FILE).is_file() else refresh(root)
    told = list(settle(root, tracking_uri))
    rows = [one.summary() for one in told]
    if as_json:
        print_json({"made_anew": made, "mlflow": rows})
    else:
        _print(made, rows)
    require_all(told)


def _print(made: dict[str, str], rows: list[dict[str, Any]]) -> None:  # Any: figures
    for what, why in made.items():
        typer.echo(f"{what}: made anew, {why}")
    for row in rows:
        killed = "; closed as killed, its process has died" if row["was_killed"] else ""
        if row["recorded"]:
            typer.echo(f"MLflow: run {row['run']}: {row['recorded']} records{killed}")
    if not made and not any(row["recorded"] or row["waiting"] for row in rows):
        typer.echo("nothing to do: all is recorded")
