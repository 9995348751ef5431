"""Calendar: today's date, as in "Today is Monday, January 30, 2023." (paper, section 2).

While annotating, today is the document's date (Appendix A); at inference it comes from a clock
that is handed in. Names of days and months are spelled here, so that no locale changes them.
Choice: an argument is rejected; the paper's calendar takes none.
"""

import datetime
import re
from collections.abc import Callable

from toolformer_core.errors import ToolInputRejected
from toolformer_core.notation import unquote
from toolformer_core.tools.base import NO_PARAMETERS, CallContext, load_prompt

CHECKED_CHARS = 60

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)

_WEEKDAY = rf"(?P<weekday>{'|'.join(WEEKDAYS)})"
_MONTH = rf"(?P<month>{'|'.join(f'{name[:3]}(?:{name[3:]})?' for name in MONTHS)})\b\.?"
_DAY = r"(?P<day>[0-9]{1,2})(?:st|nd|rd|th)?\b"
_YEAR = r"(?:,? (?P<year>[0-9]{4})\b)?"
_STATEMENTS = tuple(
    re.compile(rf"\b{pattern}")
    for pattern in (
        rf"(?:{_WEEKDAY},? )?{_MONTH} {_DAY}{_YEAR}",
        rf"(?:{_WEEKDAY},? )?(?:the )?{_DAY} (?:of )?{_MONTH}{_YEAR}",
        r"(?P<year>[0-9]{4})-(?P<month>[0-9]{2})-(?P<day>[0-9]{2})\b",
        rf"{_WEEKDAY}\b",
    )
)


class CalendarRules:
    """Where today's date can help, and whether the text states it."""

    def can_help_at(self, before: str, after: str, context: CallContext) -> bool:
        """Whether the date is known, a day is named next, and no number ends right here."""
        is_next = any(pattern.match(after.lstrip(" \t")) for pattern in _STATEMENTS)
        return context.date is not None and is_next and not before[-1:].isdigit()

    def is_right(self, result: str, after: str) -> bool | None:
        """Whether the next day named is the result; None if none starts within 60 characters.

        A weekday alone, and a date without a year, count by what they state.
        """
        stated, today = _first_statement(after), _first_statement(result.removeprefix("Today is "))
        if stated is None or today is None:
            return None
        return all(today[part] == value for part, value in stated.items())


class Calendar(CalendarRules):
    """Tells today's date."""

    name = "Calendar"
    description = "Tells today's date and weekday; takes no argument."
    takes_argument = False
    parameters = NO_PARAMETERS
    context_fields: tuple[str, ...] = ("date",)
    example: str | None = ""
    version = "1"

    def __init__(self, clock: Callable[[], datetime.date] | None = None) -> None:
        self.prompt = load_prompt("calendar")
        self._clock = clock

    def call(self, argument: str, context: CallContext) -> str:
        """The document's date, else the clock's.

        Raises: ToolInputRejected for an argument, or where there is neither date nor clock.
        """
        if unquote(argument):
            raise ToolInputRejected(f"Calendar takes no argument, got {argument!r}")
        return format_today(self._today(context))

    def _today(self, context: CallContext) -> datetime.date:
        if context.date is None:
            if self._clock is None:
                raise ToolInputRejected("document has no date")
            return self._clock()
        try:
            return datetime.date.fromisoformat(context.date)
        except ValueError as error:
            raise ToolInputRejected(
                f"document date {context.date!r} is not like 2023-01-30"
            ) from error


def format_today(day: datetime.date) -> str:
    """The sentence that the calendar answers with."""
    weekday, month = WEEKDAYS[day.weekday()], MONTHS[day.month - 1]
    return f"Today is {weekday}, {month} {day.day}, {day.year}."


def _first_statement(text: str) -> dict[str, str | int] | None:
    """The parts of the day that the text names first, as far as it states them."""
    found = [match for pattern in _STATEMENTS if (match := pattern.search(text))]
    if not found:
        return None
    first = min(found, key=lambda match: (match.start(), -match.end()))
    if first.start() >= CHECKED_CHARS:
        return None
    return {part: _value(part, text) for part, text in first.groupdict().items() if text}


def _value(part: str, text: str) -> str | int:
    if part == "month" and not text.isdigit():
        return [name[:3] for name in MONTHS].index(text[:3]) + 1
    return text if part == "weekday" else int(text)
