"""Calendar: dates checked against a printed calendar."""

import datetime
import locale

import pytest

from toolformer_core.errors import ToolInputRejected
from toolformer_core.tools.base import NO_DOCUMENT, CallContext
from toolformer_core.tools.calendar import Calendar, format_today

NEW_YEAR = datetime.date(2026, 1, 1)
RESULT = "Today is Tuesday, March 4, 2014."


def dated(date):
    return CallContext(document_id="d", url=None, date=date)


@pytest.mark.parametrize(
    ("date", "sentence"),
    [
        ("2023-01-30", "Today is Monday, January 30, 2023."),
        ("2020-02-29", "Today is Saturday, February 29, 2020."),
        ("2020-11-20", "Today is Friday, November 20, 2020."),
        ("2026-01-01", "Today is Thursday, January 1, 2026."),
    ],
)
def test_calendar_document_date_gives_paper_format(date, sentence):
    assert Calendar().call("", dated(date)) == sentence


@pytest.mark.parametrize("argument", ["", "  ", '""'])
def test_calendar_blank_argument_is_no_argument(argument):
    assert Calendar().call(argument, dated("2014-03-04")) == RESULT


def test_calendar_argument_is_rejected():
    with pytest.raises(ToolInputRejected, match="no argument"):
        Calendar().call("today", dated("2014-03-04"))


def test_calendar_no_date_and_no_clock_is_rejected():
    with pytest.raises(ToolInputRejected, match="no date"):
        Calendar().call("", NO_DOCUMENT)


def test_calendar_bad_document_date_is_rejected():
    with pytest.raises(ToolInputRejected, match="1790"):
        Calendar().call("", dated("1790"))


def test_calendar_clock_serves_where_there_is_no_date():
    calendar = Calendar(clock=lambda: NEW_YEAR)
    assert calendar.call("", NO_DOCUMENT) == "Today is Thursday, January 1, 2026."
    assert calendar.call("", dated("2014-03-04")) == RESULT


def test_format_today_ignores_the_locale():
    before = locale.setlocale(locale.LC_TIME)
    try:
        locale.setlocale(locale.LC_TIME, "")
        assert format_today(NEW_YEAR) == "Today is Thursday, January 1, 2026."
    finally:
        locale.setlocale(locale.LC_TIME, before)


@pytest.mark.parametrize(
    ("before", "after", "context", "expected"),
    [
        ("Today is", " Tuesday, March 4, 2014", dated("2014-03-04"), True),
        ("", "March 4, 2014", dated("2014-03-04"), True),
        ("Today is", " a fine day in March", dated("2014-03-04"), False),
        ("Today is March 4", "2014-03-04", dated("2014-03-04"), False),
        ("Today is", " Tuesday", NO_DOCUMENT, False),
    ],
)
def test_calendar_can_help_needs_a_date_and_a_day_next(before, after, context, expected):
    assert Calendar().can_help_at(before, after, context) is expected


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (" Tuesday, March 4, 2014, and so on", True),
        (" Tuesday March 4", True),
        (" Tuesday morning", True),
        (" the 4th of March 2014", True),
        (" 4 March, 2014", True),
        (" Mar. 4, 2014", True),
        (" 2014-03-04", True),
        (" Wednesday, not Tuesday", False),
        (" Tuesday, March 5", False),
        (" Monday, March 4", False),
        (" March 4, 2015", False),
        (" 4 April", False),
        (" March 2014", None),
        (" a Tuesdayish 4", None),
        (" a fine day", None),
        (" " * 59 + "Tuesday", True),
        (" " * 60 + "Tuesday", None),
    ],
)
def test_calendar_is_right_compares_the_next_day_named(after, expected):
    assert Calendar().is_right(RESULT, after) is expected
