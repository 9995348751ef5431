"""Dateset: questions that need the current date, generated from the paper's templates.

The set was never published. Table 11 (Appendix D) gives its seven templates and how many questions
each has, 9,400 in all: 500 current dates are drawn at random, for each one past and one future
date within four years, and the federal holidays of the United States are asked for. Ours has those
templates, sizes and dates, with a real calendar.

Choice: the current dates are different days of the years 2000 to 2029. The templates take turns, so
that the first questions, however many, have the paper's shares; dates and variants of a template
come in random order, as evenly as they can, and no question twice for a date. Weeks, months and
years are whole ones, at least 1 where they lead to a day; to a holiday of the same year there are
0 years. Holidays are on their own days, not on those when offices are closed for them.
"""

import datetime
import functools
import random
from collections.abc import Callable, Iterator, Sequence

import holidays
from dateutil.relativedelta import relativedelta

from toolformer_core.benchmarks.base import BenchmarkItem
from toolformer_core.benchmarks.open_qa import question_prompt
from toolformer_core.records import digest
from toolformer_core.tools.calendar import MONTHS, WEEKDAYS

_NUM_DATES = 500
_YEARS = range(2000, 2030)
_WITHIN_DAYS = 4 * 365
_NEAR_DAYS = {
    "the day before yesterday": -2,
    "yesterday": -1,
    "today": 0,
    "tomorrow": 1,
    "the day after tomorrow": 2,
}
_FIELDS: dict[str, Callable[[datetime.date], str]] = {
    "day of the week": lambda day: WEEKDAYS[day.weekday()],
    "day of the month": lambda day: str(day.day),
    "month": lambda day: MONTHS[day.month - 1],
    "year": lambda day: str(day.year),
}
_UNITS = ("days", "weeks", "months", "years")

Dates = tuple[datetime.date, datetime.date, datetime.date]
"""A current date, and its past and its future date."""
Make = Callable[[Dates, int], tuple[str, str]]
"""A template: the question and its answer for some dates, in one of its variants."""


def dateset(seed: int) -> Iterator[BenchmarkItem]:
    """The 9,400 questions; the same seed gives the same ones."""
    rng = random.Random(f"dateset-{seed}")
    dates = _dates(rng)
    numbers = {make: iter(rng.sample(range(size), size)) for make, size in _SIZES.items()}
    for turn, make in enumerate(_turns()):
        number = next(numbers[make])
        around = dates[number % _NUM_DATES]
        # One more in each round of the dates, so that none meets the same variant again.
        question, answer = make(around, number + number // _NUM_DATES)
        yield BenchmarkItem(
            item_id=digest("dateset", seed, turn, question),
            prompt=question_prompt(question),
            gold=(answer,),
            date=around[0].isoformat(),
        )


def _dates(rng: random.Random) -> list[Dates]:
    first = datetime.date(_YEARS.start, 1, 1)
    num_days = (datetime.date(_YEARS.stop, 1, 1) - first).days
    todays = [
        first + datetime.timedelta(days=days) for days in rng.sample(range(num_days), _NUM_DATES)
    ]
    return [
        (
            today,
            today - datetime.timedelta(days=rng.randint(1, _WITHIN_DAYS)),
            today + datetime.timedelta(days=rng.randint(1, _WITHIN_DAYS)),
        )
        for today in todays
    ]


def _pick(variant: int, *choices: Sequence[str]) -> list[str]:
    """One of each of the choices: the variants go through all combinations, the first fastest."""
    picked = []
    for options in choices:
        picked.append(options[variant % len(options)])
        variant //= len(options)
    return picked


def _days_between(dates: Dates, variant: int) -> tuple[str, str]:
    today, past, future = dates
    if variant % 2:
        return f"How many days ago was {_spoken(past)}?", str((today - past).days)
    return f"How many days are there until {_spoken(future)}?", str((future - today).days)


def _field_ago(dates: Dates, variant: int) -> tuple[str, str]:
    today, past, _ = dates
    field, unit = _pick(variant, tuple(_FIELDS), _UNITS)
    amount = max(1, _whole(past, today, unit))
    day = today - relativedelta(**{unit: amount})
    return f"What {field} was it {_amount(amount, unit)} ago?", _FIELDS[field](day)


def _field_in(dates: Dates, variant: int) -> tuple[str, str]:
    today, _, future = dates
    [field] = _pick(variant, tuple(_FIELDS))
    days = _amount((future - today).days, "days")
    return f"What {field} will it be in {days}?", _FIELDS[field](future)


def _weekday_on(dates: Dates, variant: int) -> tuple[str, str]:
    _, past, future = dates
    day, verb = (past, "was") if variant % 2 else (future, "is")
    return f"What day of the week {verb} it on {_spoken(day)}?", WEEKDAYS[day.weekday()]


def _field_near(dates: Dates, variant: int) -> tuple[str, str]:
    field, near = _pick(variant, tuple(_FIELDS), tuple(_NEAR_DAYS))
    distance = _NEAR_DAYS[near]
    day = dates[0] + datetime.timedelta(days=distance)
    return f"What {field} {'was' if distance < 0 else 'is'} it {near}?", _FIELDS[field](day)


def _field_of_holiday(dates: Dates, variant: int) -> tuple[str, str]:
    today = dates[0]
    days = _holidays(today.year)
    field, name = _pick(variant, tuple(_FIELDS)[:3], tuple(days))
    verb = "was" if days[name] < today else "is"
    return f"What {field} {verb} {name} this year?", _FIELDS[field](days[name])


def _time_to_holiday(dates: Dates, variant: int) -> tuple[str, str]:
    today = dates[0]
    days = _holidays(today.year)
    unit, name = _pick(variant, _UNITS, tuple(days))
    verb = "ago was" if days[name] < today else "are there until"
    first, last = sorted((today, days[name]))
    return f"How many {unit} {verb} {name} this year?", str(_whole(first, last, unit))


_SIZES: dict[Make, int] = {
    _days_between: 400,
    _field_ago: 800,
    _field_in: 800,
    _weekday_on: 400,
    _field_near: 4000,
    _field_of_holiday: 1800,
    _time_to_holiday: 1200,
}


def _turns() -> list[Make]:
    """Which template each question has: every one spread evenly over the whole."""
    turns = [
        ((number + 0.5) / size, rank, make)
        for rank, (make, size) in enumerate(_SIZES.items())
        for number in range(size)
    ]
    return [make for _, _, make in sorted(turns, key=lambda turn: turn[:2])]


@functools.cache
def _holidays(year: int) -> dict[str, datetime.date]:
    """The federal holidays of a year, by name, in the order of their days."""
    days = holidays.country_holidays("US", years=year, observed=False)
    return {name: day for day, name in sorted(days.items())}


def _spoken(day: datetime.date) -> str:
    return f"{MONTHS[day.month - 1]} {day.day}, {day.year}"


def _amount(amount: int, unit: str) -> str:
    return f"{amount} {unit if amount > 1 else unit.removesuffix('s')}"


def _whole(start: datetime.date, end: datetime.date, unit: str) -> int:
    """How many whole days, weeks, months or years lie between two days."""
    if unit in ("days", "weeks"):
        return (end - start).days // (7 if unit == "weeks" else 1)
    between = relativedelta(end, start)
    months: int = 12 * between.years + between.months
    return months // 12 if unit == "years" else months
