"""Questions to the index, read only."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import duckdb

from toolformer_core.errors import ConfigError

ExampleView = Literal["kept_examples", "dropped_examples"]


Rows = list[dict[str, Any]]  # Any: DuckDB values


_QUIET = "SET enable_progress_bar = false"
"""DuckDB would draw a bar of its own, into what the command line prints."""


_MADE_BY = "`toolformer annotate` or `toolformer run`"


@contextmanager
def _reading(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A read-only connection that reaches no other file; DuckDB's errors become ConfigError."""
    if not path.is_file():
        raise ConfigError(f"no index at {path}: make one with {_MADE_BY}")
    try:
        connection = _connect(path)
    except (duckdb.Error, OSError) as error:
        raise ConfigError(
            f"index {path} cannot be opened ({_first_line(error)}); if it is damaged, delete it "
            f"and repeat {_MADE_BY}: it is built again from the shards"
        ) from error
    try:
        connection.execute(_QUIET)
        yield connection
    except duckdb.Error as error:
        raise ConfigError(_first_line(error)) from error
    finally:
        connection.close()


def _connect(path: Path) -> duckdb.DuckDBPyConnection:
    """Read-only; of a copy if another process has locked the file."""

    def connect(file: Path) -> duckdb.DuckDBPyConnection:
        return duckdb.connect(str(file), read_only=True, config={"enable_external_access": "false"})

    try:
        return connect(path)
    except duckdb.IOException as error:
        if "Could not set lock" not in str(error):
            raise
    with tempfile.TemporaryDirectory(prefix=".index-", dir=path.parent) as folder:
        return connect(Path(shutil.copy(path, folder)))


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def query(
    path: Path, sql: str, limit: int | None = None
) -> tuple[list[str], list[tuple[Any, ...]]]:  # Any: DuckDB values
    """Column names and rows of a query; at most `limit` rows.

    Raises: ConfigError if the index is missing or the query is wrong; one line.
    """
    with _reading(path) as connection:
        # DuckDB returns None where the text holds no statement.
        result: duckdb.DuckDBPyConnection | None = connection.execute(sql)
        if result is None:
            return [], []
        rows = result.fetchall() if limit is None else result.fetchmany(limit)
        return [column[0] for column in result.description or ()], rows


def select(path: Path, sql: str, parameters: Sequence[object] = ()) -> Rows:
    """Rows of a query with `?` placeholders, each as column to value.

    Raises: ConfigError as `query` does.
    """
    with _reading(path) as connection:
        result = connection.execute(sql, list(parameters))
        columns = [column[0] for column in result.description or ()]
        return [dict(zip(columns, row, strict=True)) for row in result.fetchall()]


def funnel(path: Path) -> dict[str, dict[str, Any]]:  # Any: counts, and a table of them
    """Counts per tool, from documents to right calls; calls == kept + the sum of dropped.

    "documents_by_rule" says by which rule of the heuristic they qualify.
    """
    dropped = _by_tool(path, "SELECT tool, reason, n FROM drops ORDER BY n DESC, reason")
    rules = _by_tool(path, "SELECT tool, rule AS reason, n FROM documents_by_rule")
    funnels: dict[str, dict[str, Any]] = {}  # Any: as above
    in_order = "SELECT funnel.* FROM funnel JOIN tools USING (tool) ORDER BY tool_order"
    for row in select(path, in_order):
        tool, checkable, right = (row.pop(key) for key in ("tool", "checkable", "right_calls"))
        reasons = dropped.get(tool, {})
        funnels[tool] = {
            **row,
            "dropped": reasons,
            "checkable": checkable,
            "right": right,
            "documents_by_rule": rules.get(tool, {}),
        }
    return funnels


def _by_tool(path: Path, sql: str) -> dict[str, dict[str, int]]:
    """Rows of tool, reason and n, nested."""
    nested: dict[str, dict[str, int]] = {}
    for row in select(path, sql):
        nested.setdefault(row["tool"], {})[row["reason"]] = row["n"]
    return nested


def examples(path: Path, view: ExampleView, tool: str, n: int = 10) -> Rows:
    """Up to n (ten at most) example calls of one tool, with the text around them."""
    if view not in ("kept_examples", "dropped_examples"):
        raise ConfigError(f"no view of examples {view!r}: kept_examples or dropped_examples")
    return select(
        path,
        f"SELECT * FROM {view} WHERE tool = ? AND example_rank <= ? ORDER BY example_rank",
        [tool, n],
    )
