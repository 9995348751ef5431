"""Dateset: questions that need the current date, generated from the paper's templates.

The set was never published (paper, section 4.2.5 and Appendix): it takes random current dates, for
each a past or future date within four years, and asks for distances and calendar fields. Ours is
generated with a real calendar; size and seed are stated by the caller.
Departs: the holiday templates are left out until a calendar of holidays is a dependency.
"""

import datetime
import random

from toolformer_core.benchmarks.base import Benchmark, BenchmarkItem, first_words_contain
from toolformer_core.records import digest

_FIRST_DAY = datetime.date(2000, 1, 1)
_NUM_DAYS = 366 * 30
_WITHIN_DAYS = 4 * 365
_NEAR_DAYS = {
    "the day before yesterday": -2,
    "yesterday": -1,
    "today": 0,
    "tomorrow": 1,
    "the day after tomorrow": 2,
}
_FIELDS = {"day of the week": "%A", "day of the month": "%-d", "month": "%B", "year": "%Y"}


def dateset(num_items: int, seed: int) -> Benchmark:
    """`num_items` questions, the templates in turn; metric: right word among the first five."""
    rng = random.Random(f"dateset-{seed}")
    makers = (_days_between, _field_near, _field_ago, _weekday_of, _field_in)
    items = []
    for number in range(num_items):
        today = _FIRST_DAY + datetime.timedelta(days=rng.randrange(_NUM_DAYS))
        question, answer = makers[number % len(makers)](today, rng)
        items.append(
            BenchmarkItem(
                item_id=digest("dateset", seed, number, question),
                prompt=f"Answer the following question: {question}",
                gold=(answer,),
                date=today.isoformat(),
            )
        )
    return Benchmark(
        name="dateset",
        metric="answer in the first 5 words",
        items=tuple(items),
        is_right=lambda answer, gold: first_words_contain(answer, gold, 5),
    )


def _spoken(day: datetime.date) -> str:
    return f"{day:%B} {day.day}, {day.year}"


def _days_between(today: datetime.date, rng: random.Random) -> tuple[str, str]:
    distance = rng.randint(1, _WITHIN_DAYS) * rng.choice((-1, 1))
    other = _spoken(today + datetime.timedelta(days=distance))
    question = (
        f"How many days ago was {other}?" if distance < 0 else f"How many days until {other}?"
    )
    return question, str(abs(distance))


def _field_near(today: datetime.date, rng: random.Random) -> tuple[str, str]:
    word, field = rng.choice(list(_NEAR_DAYS)), rng.choice(list(_FIELDS))
    day = today + datetime.timedelta(days=_NEAR_DAYS[word])
    verb = "was" if _NEAR_DAYS[word] < 0 else "is"
    return f"What {field} {verb} it {word}?", day.strftime(_FIELDS[field])


def _field_ago(today: datetime.date, rng: random.Random) -> tuple[str, str]:
    distance, field = rng.randint(1, 60), rng.choice(list(_FIELDS))
    day = today - datetime.timedelta(days=distance)
    return f"What {field} was it {distance} days ago?", day.strftime(_FIELDS[field])


def _field_in(today: datetime.date, rng: random.Random) -> tuple[str, str]:
    distance, field = rng.randint(1, 60), rng.choice(list(_FIELDS))
    day = today + datetime.timedelta(days=distance)
    return f"What {field} will it be in {distance} days?", day.strftime(_FIELDS[field])


def _weekday_of(today: datetime.date, rng: random.Random) -> tuple[str, str]:
    distance = rng.randint(1, _WITHIN_DAYS) * rng.choice((-1, 1))
    day = today + datetime.timedelta(days=distance)
    verb = "was" if distance < 0 else "will"
    be = "it" if distance < 0 else "it be"
    return f"What day of the week {verb} {be} on {_spoken(day)}?", f"{day:%A}"
