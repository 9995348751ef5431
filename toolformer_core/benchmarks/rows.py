"""Rows of benchmark files and data sets, as they are.

A file holds JSON Lines, one JSON document, Parquet, lines of text or ASDiv's XML, compressed or
not; several are named by a glob. A data set of the hub is streamed.
"""

import io
import json
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any, Protocol

import pyarrow.parquet as pq

from toolformer_core.errors import DataError, TransientStorageError
from toolformer_core.fingerprint import fingerprint
from toolformer_core.readers.files import DAMAGE, StoredFile, find_files, is_damage
from toolformer_core.readers.hub import HUB_SCHEME, HubSource, open_hub
from toolformer_core.records import digest
from toolformer_core.sources import resolve_package_path

Fields = Mapping[str, Any]  # Any: the values of a row, as its set has them


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRow:
    """One row of a set and where it stands."""

    fields: Fields
    source: str  # name of the file or data set
    number: int  # 1-based


class RowSource(Protocol):
    """Where the rows of a set come from."""

    def rows(self) -> Iterator[RawRow]:
        """The rows in order."""

    def identity(self) -> str:
        """Digest of the content."""

    def stamp(self) -> str:
        """What changes, at no cost, when the content does."""


def open_rows(source: str, setting: str, expected: str) -> RowSource:
    """The rows of a path, glob, URL, package file or hf: data set, which stands in a setting.

    Raises: ConfigError if there is none.
    """
    if source.startswith(HUB_SCHEME):
        return HubRows(open_hub(source, setting))
    return FileRows(find_files(resolve_package_path(source), setting, expected), setting, expected)


@dataclass(frozen=True, slots=True)
class HubRows:
    """The rows of a data set of the hub."""

    hub: HubSource

    def rows(self) -> Iterator[RawRow]:
        """The examples."""
        for number, example in enumerate(self.hub.examples(), start=1):
            yield RawRow(fields=example, source=self.hub.label, number=number)

    def identity(self) -> str:
        """The revision of the data set."""
        return self.hub.identity()

    def stamp(self) -> str:
        """Nothing: within a process the data set is taken to stay as it is."""
        return ""


@dataclass(frozen=True, slots=True)
class FileRows:
    """The rows of some files, one file after the other."""

    files: tuple[StoredFile, ...]
    setting: str
    expected: str

    def rows(self) -> Iterator[RawRow]:
        """The rows of all files.

        Raises: DataError for a file that is damaged or no JSON; TransientStorageError if it cannot
        be reached.
        """
        for file in self.files:
            number = 0
            try:
                with file.open() as stream:
                    checked = map(_checked, _rows_in(stream, file.suffix))
                    for number, fields in enumerate(checked, start=1):
                        yield RawRow(fields=fields, source=file.name, number=number)
            except (*DAMAGE, ValueError, RecursionError) as error:
                raise self._bad(file, number + 1, error) from error
            except OSError as error:
                if is_damage(error):
                    raise self._bad(file, number + 1, error) from error
                raise TransientStorageError(f"{self.setting}: {file.name}: {error}") from error

    def _bad(self, file: StoredFile, number: int, error: Exception) -> DataError:
        return DataError(
            f"{self.setting}: {file.name} row {number} cannot be read: {error}; {self.expected}"
        )

    def identity(self) -> str:
        """Digest of the files' contents in order."""
        return fingerprint([file.identity() for file in self.files])

    def stamp(self) -> str:
        """That of the files."""
        return digest(*(file.stamp() for file in self.files))


def _checked(fields: object) -> Fields:
    if not isinstance(fields, Mapping):
        raise ValueError(f"{str(fields)[:40]!r} is no object with fields")
    return fields


def _rows_in(stream: IO[bytes], suffix: str) -> Iterator[object]:
    """The rows of a file by its kind; what has no suffix that we know is JSON."""
    if suffix == ".parquet":
        for batch in pq.ParquetFile(stream).iter_batches():
            yield from batch.to_pylist()
    elif suffix == ".xml":
        for _, element in ET.iterparse(stream):
            if element.tag == "Problem":
                yield {**element.attrib, **{child.tag: child.text or "" for child in element}}
                element.clear()
    elif suffix in (".txt", ".raw", ".tokens"):
        yield from ({"text": line.decode("utf-8").replace("\r\n", "\n")} for line in stream)
    elif suffix in (".jsonl", ".ndjson"):
        yield from _json_lines(stream)
    else:
        yield from _json_rows(stream.read())


def _json_lines(lines: Iterable[bytes]) -> Iterator[object]:
    return (json.loads(line) for line in lines if line.strip())


def _json_rows(content: bytes) -> Iterator[object]:
    """The rows of one JSON document, or of JSON Lines in a file that is not named so.

    A document is a list of rows, or holds one under data or Data; else it is a row itself.
    """
    try:
        document = json.loads(content)
    except ValueError:
        if not content.lstrip().partition(b"\n")[0].rstrip().endswith(b"}"):
            raise  # its first line is no row: the document itself is broken
        yield from _json_lines(io.BytesIO(content))
        return
    if isinstance(document, dict):
        document = next((document[key] for key in ("data", "Data") if key in document), document)
    yield from document if isinstance(document, list) else [document]
