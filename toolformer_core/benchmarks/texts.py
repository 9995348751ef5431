"""Texts without questions: WikiText and held-out texts for perplexity, and texts without need.

Perplexity (paper, section 4.3) is measured on whole texts as they are. Choice: a text of WikiText
is an article, for the paper does not say; held-out texts are the rows of any source of a corpus.

Over-calling, which the paper does not measure, is how often a call is made where none is of use.
Choice: a prompt is the first half, to a word end, of a passage of at least 12 words: neighbouring
sentences in which nothing can be computed (no digit, no number word), dated (no day, month or
time from now), translated (no letter beyond ASCII) or looked up (no name, which is any capital
letter inside a sentence).
"""

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from toolformer_core.benchmarks.items import ParsedRow
from toolformer_core.benchmarks.rows import RawRow, RowSource, open_rows
from toolformer_core.errors import DataError
from toolformer_core.readers.files import FileSource
from toolformer_core.readers.rows import Row, TextRow
from toolformer_core.readers.source import Source, open_source
from toolformer_core.records import digest
from toolformer_core.tools.calendar import MONTHS, WEEKDAYS

WIKITEXT_EXPECTED = "wiki.test.raw, or rows of lines or articles in the field text or page"
TEXTS_EXPECTED = "any source of texts, as in corpus.sources"
STORY = "package://reasoning_gym/data/in_the_year_2889.txt"
"""A story in the public domain, for over-calling where no texts are named."""

_MAX_ROW_BYTES = 10_000_000
_MIN_WORDS = 12
_HEADING = re.compile(r" = [^=].* = \n?")
_PARAGRAPH_END = re.compile(r"\n\s*\n")
_SENTENCE_END = re.compile(r"(?<=[.!?]) |(?<=[.!?][\"')]) ")
_WORDS = (
    "date day week month year decade century centuries now ago today tonight tomorrow yesterday "
    r"\w+teen two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty "
    "sixty seventy eighty ninety hundred thousand million billion dozen double twice half"
)
_CALLS_FOR_TOOL = re.compile(
    rf"[0-9]|[^\x00-\x7f]|(?i:\b(?:{'|'.join(_WORDS.split())})s?\b)"
    rf"|\b(?:{'|'.join((*WEEKDAYS, *MONTHS))})\b|(?<=[\w,;:] )(?!I\b)[A-Z]"
)


@dataclass(frozen=True, slots=True)
class TextRows:
    """The rows of a source of texts; one that is no text has no fields."""

    source: Source
    is_story: bool

    def rows(self) -> Iterator[RawRow]:
        """One row per text."""
        rows: Iterable[Row] = self.source.rows(_MAX_ROW_BYTES)
        if self.is_story:
            rows = _without_frame(rows)
        for row in rows:
            fields = {"text": row.text} if isinstance(row, TextRow) else {}
            yield RawRow(fields=fields, source=row.source, number=row.row_number)

    def identity(self) -> str:
        """Digest of the content."""
        return self.source.identity()

    def stamp(self) -> str:
        """That of the files, if these are files."""
        files = self.source.files if isinstance(self.source, FileSource) else ()
        return digest(*(file.stamp() for file in files))


def open_texts(source: str, setting: str, expected: str) -> TextRows:
    """The texts of any source of a corpus.

    Raises: ConfigError if there is none.
    """
    return TextRows(open_source(source, setting), is_story=source == STORY)


def _without_frame(rows: Iterable[Row]) -> Iterator[Row]:
    """The paragraphs between Project Gutenberg's two marks."""
    paragraphs = (row for row in rows if isinstance(row, TextRow))
    begun = itertools.dropwhile(lambda row: not row.text.startswith("*** START"), paragraphs)
    return itertools.takewhile(
        lambda row: not row.text.startswith("*** END"), itertools.islice(begun, 1, None)
    )


@dataclass(frozen=True, slots=True)
class ArticleRows:
    """The articles of WikiText: rows of several lines, or the lines from one title to the next."""

    source: RowSource

    def rows(self) -> Iterator[RawRow]:
        """One row per article.

        Raises: DataError for a row without text.
        """
        lines: list[str] = []
        for row in self.source.rows():
            text = _wikitext(row)
            is_article = "\n" in text.rstrip("\n")
            if is_article or _HEADING.fullmatch(text):
                yield from _article(lines, row)
                lines = []
            if is_article:
                yield RawRow(fields={"text": text}, source=row.source, number=row.number)
            else:
                lines.append(text or " \n")  # the hub's copy has empty rows for blank lines
        if lines:
            yield from _article(lines, row)

    def identity(self) -> str:
        """Digest of the content."""
        return self.source.identity()

    def stamp(self) -> str:
        """That of the rows."""
        return self.source.stamp()


def _article(lines: list[str], end: RawRow) -> Iterator[RawRow]:
    text = "".join(lines)
    if text.strip():
        yield RawRow(fields={"text": text}, source=end.source, number=end.number)


def _wikitext(row: RawRow) -> str:
    text = row.fields.get("text", row.fields.get("page"))
    if not isinstance(text, str):
        raise DataError(
            f"benchmark wikitext: {row.source} row {row.number}: no text; expected "
            f"{WIKITEXT_EXPECTED}"
        )
    return text


def open_articles(source: str, setting: str, expected: str) -> ArticleRows:
    """The articles of WikiText.

    Raises: ConfigError if there is no such file or data set.
    """
    return ArticleRows(open_rows(source, setting, expected))


def parse_text(row: RawRow) -> Iterator[ParsedRow]:
    """The whole text as it is."""
    if row.fields:
        yield ParsedRow(None, row.fields["text"], ())


def parse_passages(row: RawRow) -> Iterator[ParsedRow]:
    """The beginning of every passage in which no tool is of use."""
    for paragraph in _PARAGRAPH_END.split(row.fields.get("text", "")):
        sentences = _SENTENCE_END.split(" ".join(paragraph.split()))
        for needs_tool, group in itertools.groupby(sentences, _needs_tool):
            words = " ".join(group).split()
            if not needs_tool and len(words) >= _MIN_WORDS:
                yield ParsedRow(None, " ".join(words[: len(words) // 2]), ())


def _needs_tool(sentence: str) -> bool:
    return _CALLS_FOR_TOOL.search(sentence) is not None
