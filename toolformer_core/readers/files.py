"""Rows of files: local paths, globs and fsspec URLs, compressed or not."""

import bz2
import gzip
import hashlib
import io
import lzma
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from glob import has_magic
from pathlib import PurePosixPath
from typing import IO, Any

import fsspec
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from toolformer_core.errors import ConfigError, NoFileMatchesError, TransientStorageError
from toolformer_core.fingerprint import fingerprint
from toolformer_core.readers.lines import read_json_lines, read_paragraphs
from toolformer_core.readers.mediawiki import read_dump
from toolformer_core.readers.parquet import read_parquet
from toolformer_core.readers.rows import QuarantineReason, Row, quarantine

FileReader = Callable[[IO[bytes], str, int], Iterator[Row]]

_READERS: Mapping[str, FileReader] = {
    ".jsonl": read_json_lines,
    ".json": read_json_lines,
    ".ndjson": read_json_lines,
    ".parquet": read_parquet,
    ".txt": read_paragraphs,
    ".xml": read_dump,
}
_DECOMPRESSORS: Mapping[str, Callable[[Any], Any]] = {  # Any: file-like objects of all kinds
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": lambda stream: io.BufferedReader(pa.CompressedInputStream(stream, "zstd")),
}
_DUMP_NAME = "pages-articles"
DAMAGE = (EOFError, zlib.error, lzma.LZMAError, ET.ParseError, pa.ArrowInvalid)
"""What reading a damaged file raises, beside an OSError that `is_damage`."""

_TRUNCATION_SIGNS = ("Truncated", "no element found", "unclosed token")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """One file of a file system."""

    system: Any  # Any: an fsspec file system
    path: str

    @property
    def name(self) -> str:
        """Its name without the folders: paths of a machine do not belong in documents."""
        return PurePosixPath(self.path).name

    @property
    def compression(self) -> str:
        """The suffix that says how it is compressed, "" for none."""
        return next((suffix for suffix in _DECOMPRESSORS if self.name.lower().endswith(suffix)), "")

    @property
    def suffix(self) -> str:
        """The suffix that says of what kind it is, in lower case."""
        return PurePosixPath(self.name.lower().removesuffix(self.compression)).suffix

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """The file's bytes, decompressed."""
        with ExitStack() as stack:
            stream = stack.enter_context(self.system.open(self.path, "rb"))
            decompress = _DECOMPRESSORS.get(self.compression, io.BufferedReader)
            yield stack.enter_context(decompress(stream))

    def identity(self) -> str:
        """SHA-256 of a local file's bytes; what the file system calls a checksum elsewhere."""
        if not isinstance(self.system, LocalFileSystem):
            self.system.invalidate_cache()
            return str(self.system.checksum(self.path))
        with self.system.open(self.path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def stamp(self) -> str:
        """Its path, size and time of change: it differs, at no cost, where the content does."""
        info = self.system.info(self.path)
        return f"{self.path} {info.get('size')} {info.get('mtime')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFile(StoredFile):
    """A file of texts and how to read it."""

    reader: FileReader

    def rows(self, max_row_bytes: int) -> Iterator[Row]:
        """The rows of the file; a damaged one ends with a quarantined row.

        Raises: TransientStorageError if the file cannot be reached.
        """
        row_number = 0
        try:
            with self.open() as stream:
                for row in self.reader(stream, self.name, max_row_bytes):
                    row_number = row.row_number
                    yield row
        except DAMAGE as error:
            yield _damaged_row(error, self.name, row_number + 1)
        except OSError as error:
            if not is_damage(error):
                raise TransientStorageError(f"corpus file {self.name}: {error}") from error
            yield _damaged_row(error, self.name, row_number + 1)


@dataclass(frozen=True, slots=True)
class FileSource:
    """The files that one path, glob or URL names, in the order of their paths."""

    files: tuple[InputFile, ...]

    def rows(self, max_row_bytes: int) -> Iterator[Row]:
        """The rows of all files, one after the other."""
        for file in self.files:
            yield from file.rows(max_row_bytes)

    def identity(self) -> str:
        """Digest of the names and contents of the files."""
        return fingerprint([(file.name, file.identity()) for file in self.files])


def open_files(source: str, setting: str = "corpus.sources") -> FileSource:
    """The files of texts named by a path, glob or fsspec URL, which stands in a setting.

    Raises: ConfigError if there is none, one is of unknown kind, or the scheme is unknown.
    """
    expected = (
        "expected a path, a glob, an fsspec URL, hf:NAME/CONFIG:SPLIT, package://PACKAGE/FILE, "
        "reasoning-gym:TASK or one-step:"
    )
    found = find_files(source, setting, expected)
    return FileSource(tuple(_input_file(file, setting) for file in found))


def find_files(source: str, setting: str, expected: str) -> tuple[StoredFile, ...]:
    """The files named by a path, glob or fsspec URL, in the order of their paths.

    Raises: ConfigError, which names the setting and what it expects, if there is none or the
    scheme is unknown; NoFileMatchesError, one of them, if it is of a pattern that there is none.
    """
    try:
        system, path = fsspec.core.url_to_fs(source)
    except (ValueError, ImportError) as error:
        raise ConfigError(f"{setting}: cannot open {source!r}: {error}; {expected}") from error
    if system.isfile(path):
        return (StoredFile(system=system, path=path),)
    if system.isdir(path):
        raise ConfigError(f"{setting}: {source!r} is a folder; name its files: '{source}/*'")
    paths = sorted(found for found in system.glob(path) if system.isfile(found))
    if not paths:
        refusal = NoFileMatchesError if has_magic(path) else ConfigError
        raise refusal(f"{setting}: no file matches {source!r}; {expected}")
    return tuple(StoredFile(system=system, path=found) for found in paths)


def _input_file(file: StoredFile, setting: str) -> InputFile:
    reader = read_dump if _DUMP_NAME in file.name.lower() else _READERS.get(file.suffix)
    if reader is None or (reader is read_parquet and file.compression):
        raise ConfigError(
            f"{setting}: {file.name.lower()!r} is of unknown kind; known: {', '.join(_READERS)} "
            f"and names with {_DUMP_NAME}, also with {', '.join(_DECOMPRESSORS)} (but not .parquet)"
        )
    return InputFile(system=file.system, path=file.path, reader=reader)


def is_damage(error: OSError) -> bool:
    """Whether a decompressor raised it: only the operating system's errors have a number."""
    return type(error) in (OSError, gzip.BadGzipFile) and error.errno is None


def _damaged_row(error: Exception, source: str, row_number: int) -> Row:
    is_cut = isinstance(error, EOFError) or any(s in str(error) for s in _TRUNCATION_SIGNS)
    reason = QuarantineReason.TRUNCATED_FILE if is_cut else QuarantineReason.CORRUPT_FILE
    return quarantine(reason, str(error), source=source, row_number=row_number)
