"""Numbers, the look-ahead guard and prompts of tools/base.py."""

from decimal import Decimal

import pytest

from tests.support.builders import document
from toolformer_core.tools.base import (
    CallContext,
    context_of,
    load_prompt,
    looks_ahead,
    numbers_in,
)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("no number", []),
        ("34 apples and 57.5 pears", ["34", "57.5"]),
        ("1,234,567 people", ["1234567"]),
        ("3,4,5", ["3", "4", "5"]),
        ("the 1889-1967 bridge, .5 km", ["1889", "1967", "0.5"]),
        ("sold 57.", ["57"]),
    ],
)
def test_numbers_in_text_are_read_by_value(text, numbers):
    assert numbers_in(text) == [Decimal(number) for number in numbers]


@pytest.mark.parametrize(
    ("argument", "before", "after", "expected"),
    [
        ("34 + 57", "34 apples and 57 pears,", " 91 in all", False),
        ("34 + 57", "34 apples,", " 57 pears", True),
        ("1000 * 2", "1,000.0 people twice:", " 1000 and 2000", False),
        ("34 * 12", "34 a month,", " in all", False),
        ("3 + 4", "so", " 3,4 and 5", True),
        ("Lima capital", "Lima is in", " Peru", False),
        ("capital of Peru", "Lima, the capital of", " Peru", True),
        ("CAPITAL", "the capital is", " the capital", False),
        ("in it", "so", " in it", False),
        ("", "", "anything", False),
    ],
)
def test_looks_ahead_term_first_seen_after_the_call_is_found(argument, before, after, expected):
    assert looks_ahead(argument, before, after) is expected


def test_context_of_document_carries_id_url_and_date():
    expected = CallContext(document_id="d", url="https://a.org/b", date="2020-02-29")
    assert context_of(document(document_id="d", url=expected.url, date=expected.date)) == expected


def test_load_prompt_unknown_name_raises():
    with pytest.raises(FileNotFoundError):
        load_prompt("no_such_tool")
