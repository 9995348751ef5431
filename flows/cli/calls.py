"""The commands about candidate calls: toolformer funnel and calls."""

from pathlib import Path
from typing import Annotated

import typer

from flows.starting.inputs import print_json
from flows.starting.options import JsonOption, RunOption


def funnel(out: RunOption, as_json: JsonOption = False) -> None:
    """Counts by reason: documents, positions, calls, parsed, executed, scored, kept."""
    from flows.cli.tables import print_funnel
    from tasks.index.query import funnel as read_funnel

    counts = read_funnel(_index(out))
    print_json(counts) if as_json else print_funnel(counts)


def calls(
    out: RunOption,
    sql: Annotated[
        str, typer.Option(help="Any query over the views; candidates has one row per call.")
    ] = "SELECT tool, argument, result, loss_reduction, kept, reason FROM candidates "
    "ORDER BY kept DESC, loss_reduction DESC NULLS LAST",
    limit: Annotated[int, typer.Option(min=1, help="Most rows printed.")] = 40,
    as_json: JsonOption = False,
) -> None:
    """Query the candidate calls (DuckDB; see README for the views)."""
    from flows.cli.tables import print_rows
    from tasks.index.query import query

    names, rows = query(_index(out), sql, limit)
    if as_json:
        print_json([dict(zip(names, row, strict=True)) for row in rows])
    else:
        print_rows(names, rows)


def _index(out: Path) -> Path:
    from tasks.report.artifacts import index_of

    return index_of(out)
