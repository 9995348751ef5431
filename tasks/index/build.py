"""The DuckDB index: every record of a run in one file, made from the shards and deletable.

The index answers which calls helped and why the others were dropped (views.sql). The stages of a
call are joined while it is built, a range of shards at a time, so that a question costs no join and
memory stays bounded. What the funnel and the sweep count is counted then, too. It is built whole
at a temporary name and moved into place, so readers never see half of it and a lost or corrupt one
is simply built again. `build_index` is the only writer; everything else opens read-only, with
access to other files switched off, because queries come from the command line. While another
process has it open for writing, as the `duckdb` shell does, a copy is read.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa

from tasks.index.query import _QUIET, Rows, _first_line
from toolformer_core.config.overrides import flat_settings
from toolformer_core.config.pipeline import PipelineConfig
from toolformer_core.errors import ShardIntegrityError
from toolformer_core.records import (
    AugmentedDocument,
    Document,
    EvaluatedItem,
    ExecutedCall,
    FilterDecision,
    ProposedCall,
    QuarantinedRow,
    ScoredCall,
)
from toolformer_core.shards import ShardRef, StageRef, arrow_schema, is_intact, total_counts
from toolformer_core.storage import file_system, is_local

TABLES: Mapping[str, tuple[str, type]] = {
    "corpus": ("documents", Document),
    "quarantine": ("quarantined", QuarantinedRow),
    "sample": ("proposed_calls", ProposedCall),
    "execute": ("executed_calls", ExecutedCall),
    "score": ("scored_calls", ScoredCall),
    "filter": ("filter_decisions", FilterDecision),
    "augment": ("augmented_documents", AugmentedDocument),
    "evaluate": ("evaluated_items", EvaluatedItem),
}
"""Table and record type of each stage."""


_CALL_STAGES = ("sample", "execute", "score", "filter")
"""Stages whose tables are views of the table of joined calls."""
_JOINED_ROWS = 200_000
"""Sampled calls that are joined at a time; more make no build faster."""

_BUILD_MEMORY = "SET memory_limit = '1GB'"
"""Of joins, sorts and pages while an index is built; more is spilled to its folder. Ten million
calls need no more, and take no longer."""
_CALLS = Path(__file__).with_name("calls.sql")
_VIEWS = Path(__file__).with_name("views.sql")
_SWEEP_VIEWS = Path(__file__).with_name("sweep_views.sql")


def build_index(stages: Sequence[StageRef], config: PipelineConfig, path: Path) -> None:
    """Write a complete new index of the stages to `path`, replacing any older file.

    A stage that is missing leaves its table empty.
    Raises: ShardIntegrityError if a shard is missing, unreadable or of the wrong length.
    """
    with _new_file(path) as connection:
        _reach(connection, [shard for ref in stages for shard in ref.shards])
        for stage, (table, record_type) in TABLES.items():
            if stage in _CALL_STAGES:
                continue
            _create(connection, table, arrow_schema(record_type).empty_table())
            for ref in stages:
                if ref.stage == stage:
                    _load_shards(connection, table, f"{stage}/{ref.tool}", ref.shards)
        _load_calls(connection, stages)
        for table, facts in _facts(stages, config).items():
            _create(connection, table, facts)
        connection.execute(_VIEWS.read_text())


def build_sweep_index(
    tables: Mapping[str, pa.Table], answered: Sequence[ShardRef], path: Path
) -> None:
    """Write the index of a sweep: these tables, the items of these shards, sweep_views.sql.

    Each item bears the path of its shard, by which the table cell_shards says whose it is.
    Raises: ShardIntegrityError as build_index does.
    """
    table = "evaluated_items"
    shard_column = pa.field("shard", pa.string())
    with _new_file(path) as connection:
        _reach(connection, answered)
        for name, content in tables.items():
            _create(connection, name, content)
        _create(connection, table, arrow_schema(EvaluatedItem).append(shard_column).empty_table())
        _load_shards(connection, table, "evaluate/sweep", answered, ", filename = 'shard'")
        connection.execute(_SWEEP_VIEWS.read_text())


@contextmanager
def _new_file(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to a new file, which takes the place of an older one when all is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".index-", dir=path.parent) as folder:
        new = Path(folder) / path.name
        with duckdb.connect(str(new)) as connection:
            connection.execute(_QUIET)
            connection.execute(_BUILD_MEMORY)
            connection.begin()
            yield connection
            connection.commit()
            connection.execute("CHECKPOINT")  # when it closes, an error of the disk would be lost
        # A log left by a writer of the replaced file would be applied to the new one.
        path.with_name(f"{path.name}.wal").unlink(missing_ok=True)
        new.replace(path)


def _reach(connection: duckdb.DuckDBPyConnection, shards: Sequence[ShardRef]) -> None:
    """Let DuckDB read shards that are referred to by URL; it has no client of its own for them."""
    remote = {s.path.partition("://")[0]: s.path for s in shards if not is_local(s.path)}
    for path in remote.values():
        connection.register_filesystem(file_system(path)[0])


def _create(connection: duckdb.DuckDBPyConnection, table: str, content: pa.Table) -> None:
    connection.register("content", content)
    connection.execute(f"CREATE TABLE {table} AS SELECT * FROM content")
    connection.unregister("content")


def _load_shards(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    where: str,
    shards: Sequence[ShardRef],
    options: str = "",  # of read_parquet
) -> None:
    """Append the rows of shards to a table; `where` names them in errors."""
    if not shards:
        return
    paths = [shard.path for shard in shards]
    try:
        inserted = connection.execute(
            f"INSERT INTO {table} BY NAME SELECT * FROM read_parquet(?{options})", [paths]
        ).fetchone()
    except duckdb.Error as error:
        raise _not_indexed(f"a shard of {where}", error, shards) from error
    _check_count(where, inserted[0] if inserted else 0, shards)


def _load_calls(connection: duckdb.DuckDBPyConnection, stages: Sequence[StageRef]) -> None:
    """Join the stages of all calls into the table `calls`."""
    refs = [ref for ref in stages if ref.stage in _CALL_STAGES]
    for ref in refs:
        _check_shards(connection, f"{ref.stage}/{ref.tool}", ref.shards)
    for stage in _CALL_STAGES:
        connection.register(f"no_{stage}", arrow_schema(TABLES[stage][1]).empty_table())
    select = _CALLS.read_text()
    nothing = {stage: f"no_{stage}" for stage in _CALL_STAGES}
    connection.execute(f"CREATE TABLE calls AS {select.format(**nothing)}")
    for tool in dict.fromkeys(ref.tool for ref in refs):
        own = [ref for ref in refs if ref.tool == tool]
        for part in _ranges(own):
            found = {stage: f"read_parquet(${stage})" for stage in part}
            try:
                connection.execute(f"INSERT INTO calls {select.format(**nothing | found)}", part)
            except duckdb.Error as error:
                shards = [shard for ref in own for shard in ref.shards]
                raise _not_indexed(f"the calls to {tool}", error, shards) from error
    _check_joined(connection, refs)


def _ranges(refs: Sequence[StageRef]) -> Iterator[dict[str, list[str]]]:
    """Paths by stage of one tool's shards, some neighbouring ones of all stages at a time."""
    by_index: dict[int, list[tuple[str, ShardRef]]] = {}
    for ref in refs:
        for shard in ref.shards:
            by_index.setdefault(shard.shard_index, []).append((ref.stage, shard))
    part: dict[str, list[str]] = {}
    num_rows = 0
    for shard_index in sorted(by_index):
        for stage, shard in by_index[shard_index]:
            part.setdefault(stage, []).append(shard.path)
            num_rows += shard.num_rows if stage == "sample" else 0
        if num_rows >= _JOINED_ROWS:
            yield part
            part, num_rows = {}, 0
    if part:
        yield part


def _check_shards(
    connection: duckdb.DuckDBPyConnection, where: str, shards: Sequence[ShardRef]
) -> None:
    """Nothing, if all shards are there and have the rows that they should."""
    if not shards:
        return
    sql = "SELECT sum(num_rows) FROM parquet_file_metadata(?)"
    try:
        [(found,)] = connection.execute(sql, [[shard.path for shard in shards]]).fetchall()
    except duckdb.Error as error:
        raise _not_indexed(f"a shard of {where}", error, shards) from error
    _check_count(where, found or 0, shards)


def _check_joined(connection: duckdb.DuckDBPyConnection, refs: Sequence[StageRef]) -> None:
    """Nothing, if every row of every stage has found its call."""
    [found] = connection.execute(
        "SELECT count(*), count(outcome), count(loss_with_result), count(kept) FROM calls"
    ).fetchall()
    for stage, num_rows in zip(_CALL_STAGES, found, strict=True):
        shards = [shard for ref in refs if ref.stage == stage for shard in ref.shards]
        _check_count(stage, num_rows, shards)


def _check_count(where: str, num_rows: int, shards: Sequence[ShardRef]) -> None:
    expected = sum(shard.num_rows for shard in shards)
    if num_rows != expected:
        raise ShardIntegrityError(
            f"the shards of {where} hold {num_rows} rows, expected {expected}; "
            "delete them and run again: they are then computed anew"
        )


def _not_indexed(what: str, error: duckdb.Error, shards: Sequence[ShardRef]) -> ShardIntegrityError:
    """What to raise for an error of DuckDB's.

    Raises: TransientStorageError if it is that the shards cannot be reached, to try again.
    """
    for shard in shards:
        is_intact(shard)
    return ShardIntegrityError(
        f"{what} cannot be indexed ({_first_line(error)}); run again to compute it"
    )


def _facts(stages: Sequence[StageRef], config: PipelineConfig) -> dict[str, pa.Table]:
    """The small tables that come from references and settings: name to content."""
    tools = _tools(stages, config)
    counts = [
        {"stage": ref.stage, "tool": ref.tool, "reason": reason, "n": n}
        for ref in stages
        for reason, n in total_counts(ref).items()
    ]
    settings = [{"key": key, "value": value} for key, value in flat_settings(config).items()]
    text, number = pa.string(), pa.int64()
    shapes: dict[str, tuple[Rows, list[tuple[str, pa.DataType]]]] = {
        "tools": (
            [{"tool": tool, "tool_order": order} for order, tool in enumerate(tools)],
            [("tool", text), ("tool_order", number)],
        ),
        "stage_counts": (
            counts,
            [("stage", text), ("tool", text), ("reason", text), ("n", number)],
        ),
        "settings": (settings, [("key", text), ("value", text)]),
        "thresholds": (
            [row for tool in tools for row in _thresholds(tool, config)],
            [("tool", text), ("filtering_threshold", pa.float64()), ("is_in_force", pa.bool_())],
        ),
    }
    return {
        name: pa.Table.from_pylist(rows, schema=pa.schema(columns))
        for name, (rows, columns) in shapes.items()
    }


def _tools(stages: Sequence[StageRef], config: PipelineConfig) -> tuple[str, ...]:
    """Enabled tools in the order of the settings, then any other that has calls."""
    seen = [ref.tool for ref in stages if ref.stage == "sample"]
    return tuple(dict.fromkeys([*config.tools.enabled, *seen]))


def _thresholds(tool: str, config: PipelineConfig) -> Rows:
    in_force: float | None = None
    if tool in config.tools.enabled:
        in_force = config.of_tool(tool).filtering_threshold
    swept = {*config.filter.threshold_sweep, *([] if in_force is None else [in_force])}
    return [
        {"tool": tool, "filtering_threshold": value, "is_in_force": value == in_force}
        for value in sorted(swept)
    ]
