"""Rows of a Parquet file with a column text, read in small batches."""

from collections.abc import Iterator
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from toolformer_core.errors import ConfigError
from toolformer_core.readers.rows import QuarantineReason, Row, quarantine, row_from_fields

_BATCH_ROWS = 64


def read_parquet(stream: IO[bytes], source: str, max_row_bytes: int) -> Iterator[Row]:
    """One row per row of the file.

    Raises: ConfigError if the file has no column text.
    """
    file = pq.ParquetFile(stream)
    names = file.schema_arrow.names
    if "text" not in names:
        raise ConfigError(
            f"corpus.sources: {source} has no column 'text', only {', '.join(names)}; rename one"
        )
    columns = [name for name in ("text", "url", "date") if name in names]
    row_number = 0
    for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
        values = {name: _column_values(batch.column(name)) for name in columns}
        for row_index in range(batch.num_rows):
            row_number += 1
            raw = {name: column[row_index] for name, column in values.items()}
            yield _parquet_row(raw, source, row_number, max_row_bytes)


def _parquet_row(
    raw: dict[str, bytes | str | None], source: str, row_number: int, max_row_bytes: int
) -> Row:
    text = raw["text"]
    if isinstance(text, str):
        return quarantine(QuarantineReason.BAD_ROW, text, source=source, row_number=row_number)
    fields = {name: _lenient(value) for name, value in raw.items() if name != "text"}
    try:
        fields["text"] = None if text is None else text.decode("utf-8")
    except UnicodeDecodeError:
        return quarantine(
            QuarantineReason.NOT_UTF8, text or b"", source=source, row_number=row_number
        )
    return row_from_fields(
        fields, source=source, row_number=row_number, max_row_bytes=max_row_bytes
    )


def _column_values(column: Any) -> list[bytes | str | None]:  # Any: a pyarrow array
    """Bytes for a column of strings or bytes; for any other type, its values as text."""
    try:
        values: list[bytes | str | None] = column.cast(pa.large_binary()).to_pylist()
    except pa.ArrowNotImplementedError:
        return [None if not value.is_valid else str(value) for value in column]
    return values


def _lenient(value: bytes | str | None) -> str | None:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
