"""TempLAMA: statements whose missing last words change with the year (paper, section 4.2.5).

Prompt and metric are LAMA's. Choice: as with LAMA, an item is kept if its blank comes last, and
the current day, which the Calendar gives, is the first of July of the item's year. The paper's
prompt does not name the year.
"""

from collections.abc import Iterator

from toolformer_core.benchmarks.items import ParsedRow, text_in, texts_in
from toolformer_core.benchmarks.lama import PROMPT, before_mask
from toolformer_core.benchmarks.rows import RawRow

BLANK = "_X_"
EXPECTED = "TempLAMA's query, answer [{name}] and date (a year)"
STAND_IN_EXPECTED = "query, answers and date (a year)"


def parse_templama(row: RawRow) -> Iterator[ParsedRow]:
    """The item of a row of TempLAMA."""
    answers = row.fields["answer"]
    entities = answers if isinstance(answers, list) else [answers]
    yield from _item(row, tuple(text_in(dict(entity), "name") for entity in entities))


def parse_stand_in(row: RawRow) -> Iterator[ParsedRow]:
    """The item of a row of TempLAMA's form that is not of TempLAMA."""
    yield from _item(row, texts_in(row.fields["answers"]))


def _item(row: RawRow, gold: tuple[str, ...]) -> Iterator[ParsedRow]:
    if not gold:
        raise ValueError("no answer")
    date = f"{int(row.fields['date']):04d}-07-01"
    before = before_mask(text_in(row.fields, "query"), BLANK)
    if before is not None:
        yield ParsedRow(row.fields.get("id"), PROMPT + before, gold, date)
