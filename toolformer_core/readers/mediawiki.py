"""Articles of a MediaWiki XML dump, streamed page by page.

A row is an article: pages of other namespaces and redirects are no rows. Its date is the day of
the revision. A page is held in memory whole; MediaWiki limits it to 2 MB of wikitext.
"""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import IO

from toolformer_core.readers.rows import QuarantineReason, Row, quarantine, row_from_fields
from toolformer_core.readers.wikitext import plain_text

_REDIRECT = re.compile(r"\s*#redirect\b", re.IGNORECASE)
_DEFAULT_BASE = "https://en.wikipedia.org/wiki/Main_Page"


def read_dump(stream: IO[bytes], source: str, max_row_bytes: int) -> Iterator[Row]:
    """One row per article, as plain text; its number counts the articles."""
    base = _DEFAULT_BASE
    row_number = 0
    events = ET.iterparse(stream, events=("start", "end"))
    _, root = next(events)
    for event, element in events:
        tag = element.tag.rpartition("}")[2]
        if event == "end" and tag == "base":
            base = element.text or base
        elif event == "end" and tag == "page":
            if _is_article(element):
                row_number += 1
                yield _article_row(element, base, (source, row_number), max_row_bytes)
            root.clear()  # else the whole dump stays in memory


def _is_article(page: ET.Element) -> bool:
    is_redirect = page.find("{*}redirect") is not None or _REDIRECT.match(_wikitext(page))
    return page.findtext("{*}ns", "0") == "0" and not is_redirect


def _wikitext(page: ET.Element) -> str:
    return page.findtext("{*}revision/{*}text", "")


def _article_row(page: ET.Element, base: str, place: tuple[str, int], max_row_bytes: int) -> Row:
    source, row_number = place
    wikitext = _wikitext(page)
    if len(wikitext.encode()) > max_row_bytes:
        return quarantine(QuarantineReason.TOO_LONG, wikitext, source=source, row_number=row_number)
    fields = {
        "text": plain_text(wikitext),
        "url": article_url(base, page.findtext("{*}title", "")),
        "date": page.findtext("{*}revision/{*}timestamp"),
    }
    return row_from_fields(
        fields, source=source, row_number=row_number, max_row_bytes=max_row_bytes
    )


def article_url(base: str, title: str) -> str:
    """Address of an article, beside the main page `base`; only % and ? are escaped."""
    name = title.replace(" ", "_").replace("%", "%25").replace("?", "%3F")
    return f"{base.rpartition('/')[0]}/{name}"
