"""The items that the rows of a benchmark become."""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from toolformer_core.benchmarks.base import BenchmarkItem
from toolformer_core.benchmarks.rows import Fields, RawRow
from toolformer_core.errors import DataError
from toolformer_core.records import digest

_log = logging.getLogger(__name__)


class ParsedRow(NamedTuple):
    """What a row says; without an id of its own it is known by its number."""

    row_id: object
    prompt: str
    gold: tuple[str, ...]
    date: str | None = None


Parse = Callable[[RawRow], Iterable[ParsedRow]]
"""What a row becomes: no item if it is left out, several if it holds several questions.

Raises: KeyError, TypeError or ValueError for a row that is not of an expected form.
"""


def read_items(
    name: str, rows: Iterable[RawRow], parse: Parse, expected: str
) -> Iterator[BenchmarkItem]:
    """The items of a benchmark, each once; how many rows were left out or repeated is logged.

    Raises: DataError naming the row that is not of the expected form, or if there is no item.
    """
    seen: set[str] = set()
    num_rows = num_left_out = num_repeated = 0
    for row in rows:
        num_rows += 1
        parsed_rows = _parsed(name, row, parse, expected)
        num_left_out += not parsed_rows
        for parsed in parsed_rows:
            row_id = row.number if parsed.row_id is None else parsed.row_id
            item_id = digest(name, row_id, parsed.prompt)
            if item_id in seen:
                num_repeated += 1
                continue
            seen.add(item_id)
            yield BenchmarkItem(
                item_id=item_id, prompt=parsed.prompt, gold=parsed.gold, date=parsed.date
            )
    if not seen:
        raise DataError(
            f"benchmark {name}: none of {num_rows} rows is an item; expected {expected}"
        )
    _log.info(
        "benchmark %s: %d items; %d of %d rows left out, %d items repeated",
        *(name, len(seen), num_left_out, num_rows, num_repeated),
    )


def _parsed(name: str, row: RawRow, parse: Parse, expected: str) -> tuple[ParsedRow, ...]:
    try:
        return tuple(parse(row))
    except KeyError as error:
        problem = f"no field {error}"
    except (AttributeError, TypeError, ValueError) as error:
        problem = str(error)
    raise DataError(
        f"benchmark {name}: {row.source} row {row.number}: {problem}; expected {expected}"
    )


def text_in(fields: Fields, *names: str) -> str:
    """The text of the first of the named fields that is there, without space around it.

    Raises: KeyError if none is there; TypeError if it is no text.
    """
    name = next((name for name in names if name in fields), names[0])
    value = fields[name]
    if not isinstance(value, str) or not value.strip():
        raise TypeError(f"field {name!r} is {value!r}, not a text")
    return value.strip()


def texts_in(values: object) -> tuple[str, ...]:
    """The different texts of a list, in order.

    Raises: TypeError if it is no list of texts; ValueError if it holds none.
    """
    if not isinstance(values, list | tuple) or not all(isinstance(v, str) for v in values):
        raise TypeError(f"{values!r} is no list of texts")
    texts = tuple(dict.fromkeys(value.strip() for value in values if value.strip()))
    if not texts:
        raise ValueError("no answer")
    return texts
