"""Parquet shards of records, written atomically and verified on reading; references to them.

A shard is published by its `ShardRef`. The digest covers the content of the rows, not the file's
bytes, and leaves out fields marked volatile (latencies), so that the same work done twice gives
the same digest. The manifest of a stage is written last: a stage without one does not exist.
"""

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from toolformer_core.errors import ShardIntegrityError
from toolformer_core.fingerprint import Reference
from toolformer_core.storage import is_local, read_bytes, temporary_path, write_bytes

Record = TypeVar("Record")

_COMPRESSION = "zstd"
_FOOTER_BYTES = 64 * 1024  # that of a shard has some six thousand
_ARROW_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ShardRef(Reference):
    """Where one shard lies and what it holds; `digest` identifies its content."""

    path: str  # absolute, or a URL
    digest: str
    num_rows: int
    shard_index: int
    counts: dict[str, int]  # counts by reason, as the stage reports them
    seconds: float = dataclasses.field(default=0.0, compare=False)  # that its task took

    @property
    def identity(self) -> str:
        """What a cache key takes of it: two empty shards have one digest but two places."""
        return f"{self.shard_index}-{self.digest}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StageRef:
    """All shards of one stage for one tool ("all" where a stage has no tool)."""

    stage: str
    tool: str
    fingerprint: str
    shards: tuple[ShardRef, ...]
    num_cached: int = 0  # shards that this run did not have to compute

    @property
    def digest(self) -> str:
        """Identity of the stage's content: the digests of its shards, in order."""
        joined = ",".join(shard.digest for shard in self.shards)
        return hashlib.sha256(joined.encode()).hexdigest()[:16]


def arrow_schema(record_type: type) -> pa.Schema:
    """Arrow schema of a record type, from its annotations."""
    hints = typing.get_type_hints(record_type)
    fields = [(f.name, hints[f.name]) for f in dataclasses.fields(record_type)]
    return pa.schema([pa.field(name, *_arrow_type(hint)) for name, hint in fields])


def _arrow_type(hint: Any) -> tuple[pa.DataType, bool]:  # Any: a type annotation
    """Arrow type and nullability of one annotation."""
    if isinstance(hint, types.UnionType):
        inner = next(arg for arg in hint.__args__ if arg is not type(None))
        return _arrow_type(inner)[0], True
    if typing.get_origin(hint) is tuple:
        return pa.list_(_arrow_type(typing.get_args(hint)[0])[0]), False
    if dataclasses.is_dataclass(hint):
        return pa.struct(list(arrow_schema(typing.cast(type, hint)))), False
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return pa.string(), False
    return _ARROW_TYPES[hint], False


def content_digest(records: Iterable[Any]) -> str:  # Any: records are dataclasses
    """Digest of the rows in order, volatile fields left out; 16 hexadecimal characters."""
    hasher = hashlib.sha256()
    for record in records:
        hasher.update(json.dumps(_stable_row(record), sort_keys=True).encode())
        hasher.update(b"\n")
    return hasher.hexdigest()[:16]


def _stable_row(record: Any) -> dict[str, Any]:  # Any: records are dataclasses
    row = dataclasses.asdict(record)
    for field in dataclasses.fields(record):
        if field.metadata.get("volatile"):
            del row[field.name]
    return row


def write_shard(
    records: Sequence[Record],
    record_type: type[Record],
    path: Path | str,
    *,
    shard_index: int,
    counts: Mapping[str, int],
) -> ShardRef:
    """Write the records to `path`, which may be a URL, as a whole; return the reference.

    Raises: as `write_bytes`.
    """
    write_bytes(str(path), _parquet(records, record_type).to_pybytes())
    return ShardRef(
        path=str(path),
        digest=content_digest(records),
        num_rows=len(records),
        shard_index=shard_index,
        counts=dict(counts),
    )


def stored_bytes(records: Sequence[Record], record_type: type[Record]) -> int:
    """Size of the records as a shard, without writing it."""
    size: int = _parquet(records, record_type).size
    return size


def _parquet(records: Sequence[Record], record_type: type[Record]) -> pa.Buffer:
    rows = [dataclasses.asdict(typing.cast(Any, record)) for record in records]
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pylist(rows, schema=arrow_schema(record_type))
    pq.write_table(table, sink, compression=_COMPRESSION)
    return sink.getvalue()


def read_shard(ref: ShardRef, record_type: type[Record]) -> list[Record]:
    """Records of a shard.

    Raises: ShardIntegrityError if the file is missing, unreadable or its content has changed;
        TransientStorageError if its storage cannot be reached.
    """
    cure = "delete the file and run again: it is then computed anew"
    try:
        rows = pq.ParquetFile(pa.BufferReader(read_bytes(ref.path))).read().to_pylist()
        records = [_from_row(record_type, row) for row in rows]
        found = content_digest(records)
    except FileNotFoundError as error:
        raise ShardIntegrityError(f"shard {ref.path} is gone; run again to compute it") from error
    except (pa.ArrowException, OSError, TypeError, KeyError, ValueError, AttributeError) as error:
        raise ShardIntegrityError(f"shard {ref.path} cannot be read ({error}); {cure}") from error
    if found != ref.digest:
        raise ShardIntegrityError(
            f"shard {ref.path} has digest {found}, expected {ref.digest}; {cure}"
        )
    return records


def is_intact(ref: ShardRef) -> bool:
    """Whether the shard's file is there and is a Parquet file of the right length.

    Raises: TransientStorageError if its storage cannot be reached.
    """
    try:
        return int(read_footer(ref.path).num_rows) == ref.num_rows
    except (OSError, pa.ArrowException):
        return False


def read_footer(path: str) -> pq.FileMetaData:
    """What the end of a Parquet file tells of it; of most files nothing else is read."""
    try:
        return pq.read_metadata(pa.BufferReader(read_bytes(path, _FOOTER_BYTES)))
    except pa.ArrowInvalid:
        return pq.read_metadata(pa.BufferReader(read_bytes(path)))


def relocated(ref: ShardRef, base: str) -> ShardRef:
    """The shard where it lies below `base`, if it does: a folder may have been moved or copied.

    References are absolute; what stays of them is STAGE/TOOL/FINGERPRINT/FILE.
    """
    if ref.path.startswith(f"{base}/"):
        return ref
    there = dataclasses.replace(ref, path="/".join([base, *ref.path.split("/")[-4:]]))
    return there if is_intact(there) else ref


def _from_row(record_type: type[Record], row: Mapping[str, Any]) -> Record:
    hints = typing.get_type_hints(record_type)
    return record_type(**{name: _from_value(hints[name], value) for name, value in row.items()})


def _from_value(hint: Any, value: Any) -> Any:  # Any: annotation and Parquet value
    if value is None:
        return None
    if isinstance(hint, types.UnionType):
        return _from_value(next(arg for arg in hint.__args__ if arg is not type(None)), value)
    if typing.get_origin(hint) is tuple:
        return tuple(_from_value(typing.get_args(hint)[0], item) for item in value)
    if dataclasses.is_dataclass(hint):
        return _from_row(typing.cast(type, hint), value)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return hint(value)
    return value


def write_manifest(stage: StageRef, root: Path, details: Mapping[str, Any]) -> Path:
    """Write the manifest of a stage, last and atomically.

    Shards below ROOT are named as seen from there, so that a copy of ROOT has shards of its own.
    """
    folder = stage_folder(root, stage.stage, stage.tool, stage.fingerprint)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "manifest.json"
    temporary = temporary_path(path)
    content = {**details, **dataclasses.asdict(stage), "counts": total_counts(stage)}
    for shard in content["shards"]:
        shard["path"] = shard["path"].removeprefix(f"{root}/")
    temporary.write_text(json.dumps(content, indent=1, sort_keys=True))
    temporary.replace(path)
    return path


def read_manifest(path: Path) -> StageRef:
    """The stage that a manifest describes; shards of its root are found where that lies now."""
    content = json.loads(path.read_text())
    root = str(path.absolute().parents[3])  # see stage_folder
    return StageRef(
        stage=content["stage"],
        tool=content["tool"],
        fingerprint=content["fingerprint"],
        shards=tuple(_anchored(ShardRef(**shard), root) for shard in content["shards"]),
        num_cached=content["num_cached"],
    )


def _anchored(ref: ShardRef, root: str) -> ShardRef:
    """The shard of a manifest in ROOT: that of a storage stays where it is, whatever ROOT has."""
    if not is_local(ref.path):
        return ref
    if not Path(ref.path).is_absolute():
        return dataclasses.replace(ref, path=f"{root}/{ref.path}")
    # Of a storage; or an older version wrote it, with all paths absolute.
    return ref if Path(ref.path).is_file() else relocated(ref, root)


def stage_folder(root: Path, stage: str, tool: str, fingerprint: str) -> Path:
    """Where a stage keeps the manifest of one tool and configuration, and what is no shard."""
    return root / stage / tool / fingerprint


def shard_folder(base: str, stage: str, tool: str, fingerprint: str) -> str:
    """Where a stage keeps its shards, below a root or the URL of a storage."""
    return "/".join((base, stage, tool, fingerprint))


def stage_path(shard: ShardRef) -> str:
    """STAGE/TOOL/FINGERPRINT of a shard, by its path."""
    return "/".join(shard.path.split("/")[-4:-1])


def total_counts(stage: StageRef) -> dict[str, int]:
    """Counts by reason, summed over the shards."""
    totals: dict[str, int] = {}
    for shard in stage.shards:
        for reason, count in shard.counts.items():
            totals[reason] = totals.get(reason, 0) + count
    return totals
