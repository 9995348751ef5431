"""Rows of JSON Lines and plain text files, read line by line with bounded memory."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import IO

from toolformer_core.readers.rows import QuarantineReason, Row, quarantine, row_from_fields

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SKIP_BYTES = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    content: bytes
    number: int
    is_whole: bool  # False: too long, and only its beginning is here


def read_json_lines(stream: IO[bytes], source: str, max_row_bytes: int) -> Iterator[Row]:
    """One row per line that is not blank: a JSON object with the field text."""
    for line in _bounded_lines(stream, max_row_bytes):
        if line.content.strip():
            yield _json_row(line, source, max_row_bytes)


def _json_row(line: _Line, source: str, max_row_bytes: int) -> Row:
    reject = partial(quarantine, raw=line.content, source=source, row_number=line.number)
    if not line.is_whole:
        return reject(QuarantineReason.TOO_LONG)
    try:
        fields = json.loads(line.content.decode("utf-8"))
    except UnicodeDecodeError:
        return reject(QuarantineReason.NOT_UTF8)
    except (ValueError, RecursionError):  # ValueError also for a number with too many digits
        return reject(QuarantineReason.BAD_JSON)
    if not isinstance(fields, dict):
        return reject(QuarantineReason.NOT_AN_OBJECT)
    return row_from_fields(
        fields, source=source, row_number=line.number, max_row_bytes=max_row_bytes
    )


def read_paragraphs(stream: IO[bytes], source: str, max_row_bytes: int) -> Iterator[Row]:
    """One row per block of lines between blank lines; its number is that of its first line."""
    block = bytearray()
    is_whole, first_number = True, 1
    end_of_file = _Line(content=b"", number=0, is_whole=True)
    for line in itertools.chain(_bounded_lines(stream, max_row_bytes), [end_of_file]):
        if line.content.strip():
            first_number = first_number if block else line.number
            is_short = len(block) + len(line.content) <= max_row_bytes + 1  # 1: last newline
            is_whole = is_whole and line.is_whole and is_short
            if is_whole or not block:
                block += line.content
        elif block:
            content = _Line(content=bytes(block), number=first_number, is_whole=is_whole)
            yield _paragraph_row(content, source, max_row_bytes)
            block.clear()
            is_whole = True


def _paragraph_row(block: _Line, source: str, max_row_bytes: int) -> Row:
    reject = partial(quarantine, raw=block.content, source=source, row_number=block.number)
    if not block.is_whole:
        return reject(QuarantineReason.TOO_LONG)
    try:
        fields = {"text": block.content.decode("utf-8").strip()}
    except UnicodeDecodeError:
        return reject(QuarantineReason.NOT_UTF8)
    return row_from_fields(
        fields, source=source, row_number=block.number, max_row_bytes=max_row_bytes
    )


def _bounded_lines(stream: IO[bytes], max_bytes: int) -> Iterator[_Line]:
    """Lines of the stream; of one longer than max_bytes only the beginning is ever in memory."""
    for number in itertools.count(1):
        content = stream.readline(max_bytes + 1)
        if not content:
            return
        is_whole = len(content) <= max_bytes or content.endswith(b"\n")
        if not is_whole:
            content = content[:_SKIP_BYTES]
            _skip_line(stream)
        if number == 1:
            content = content.removeprefix(_BYTE_ORDER_MARK)
        yield _Line(content=content, number=number, is_whole=is_whole)


def _skip_line(stream: IO[bytes]) -> None:
    while (rest := stream.readline(_SKIP_BYTES)) and not rest.endswith(b"\n"):
        pass
