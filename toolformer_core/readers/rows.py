"""One row of a source: either a text, or a quarantined row with the reason.

A document's date is its field date, else the one in its address, as in /2019/03/14/ (paper,
Appendix A). Texts are changed as little as possible: newlines become LF, NUL goes, lone surrogates
become U+FFFD (they cannot be stored). No Unicode normal form is applied.
"""

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from htmldate.extractors import extract_url_date
from htmldate.utils import Extractor

from toolformer_core.records import QuarantinedRow

MAX_EXCERPT_CHARS = 200

_URL_DATES = Extractor(
    False, datetime.datetime(2100, 1, 1), datetime.datetime(1900, 1, 1), False, "%Y-%m-%d"
)
"""How dates in addresses are read: fixed bounds, so that no document depends on today."""

_NEWLINE = re.compile(r"\r\n?")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_ISO_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?![0-9])")


class QuarantineReason(StrEnum):
    """Why a row could not become a document."""

    BAD_JSON = "bad_json"
    NOT_AN_OBJECT = "not_an_object"  # JSON, but not {...}
    NO_TEXT = "no_text"  # the field text is absent, empty or not a string
    NOT_UTF8 = "not_utf8"
    TOO_LONG = "too_long"  # more than max_row_bytes
    BAD_ROW = "bad_row"  # a Parquet value that is not text
    TRUNCATED_FILE = "truncated_file"  # the file ends too early; the rows before stay
    CORRUPT_FILE = "corrupt_file"  # the file cannot be read from here on; the rows before stay


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRow:
    """One text as its source holds it, not yet cut into passages."""

    text: str
    url: str | None
    date: str | None  # ISO 8601, to the day
    source: str
    row_number: int  # 1-based


Row = TextRow | QuarantinedRow


def row_from_fields(
    fields: Mapping[str, object], *, source: str, row_number: int, max_row_bytes: int
) -> Row:
    """The row made of the fields text, url and date; others are ignored."""
    text = fields.get("text")
    cleaned = clean_text(text) if isinstance(text, str) else ""
    if not cleaned.strip():
        names = f"fields: {', '.join(sorted(map(str, fields)))}"
        return quarantine(QuarantineReason.NO_TEXT, names, source=source, row_number=row_number)
    if len(cleaned.encode()) > max_row_bytes:
        return quarantine(QuarantineReason.TOO_LONG, cleaned, source=source, row_number=row_number)
    url = fields.get("url")
    address = clean_text(url) if isinstance(url, str) and url else None
    return TextRow(
        text=cleaned,
        url=address,
        date=iso_day(fields.get("date")) or extract_url_date(address, _URL_DATES),
        source=source,
        row_number=row_number,
    )


def quarantine(
    reason: QuarantineReason, raw: str | bytes, *, source: str, row_number: int
) -> QuarantinedRow:
    """A quarantined row with the beginning of its raw content."""
    start = raw[: 4 * MAX_EXCERPT_CHARS]  # 4: bytes in the longest UTF-8 character
    shown = start if isinstance(start, str) else start.decode("utf-8", "replace")
    return QuarantinedRow(
        source=source,
        row_number=row_number,
        reason=reason.value,
        excerpt=clean_text(shown)[:MAX_EXCERPT_CHARS],
    )


def clean_text(text: str) -> str:
    """The text with universal newlines, without NUL, and with lone surrogates replaced."""
    return _LONE_SURROGATE.sub("\ufffd", _NEWLINE.sub("\n", text).replace("\0", ""))


def iso_day(value: object) -> str | None:
    """The day that a value is or starts with, as YYYY-MM-DD; a bare year gives none."""
    text = value.isoformat() if isinstance(value, datetime.date) else value
    if not isinstance(text, str) or not _ISO_DAY.match(text):
        return None
    try:
        return datetime.date.fromisoformat(text[:10]).isoformat()
    except ValueError:
        return None
