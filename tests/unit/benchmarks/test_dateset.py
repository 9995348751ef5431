"""Dateset against a calendar of its own: every question is read again and answered by counting."""

import calendar
import re
from collections import Counter
from datetime import date, timedelta

import pytest

from toolformer_core.benchmarks.registry import load_benchmark

WEEKDAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = list(calendar.month_name)[1:]
NEAR = {
    "the day before yesterday": -2,
    "yesterday": -1,
    "today": 0,
    "tomorrow": 1,
    "the day after tomorrow": 2,
}
FIELDS = {
    "day of the week": lambda day: WEEKDAYS[day.weekday()],
    "day of the month": lambda day: str(day.day),
    "month": lambda day: MONTHS[day.month - 1],
    "year": lambda day: str(day.year),
}
PREFIX = "Answer the following question: "

# By law (5 U.S.C. 6103): a month with a day of its own, or with the nth weekday (-1: the last).
FIXED = {
    "New Year's Day": (1, 1),
    "Juneteenth National Independence Day": (6, 19),
    "Independence Day": (7, 4),
    "Veterans Day": (11, 11),
    "Christmas Day": (12, 25),
}
WEEKDAY_OF_MONTH = {
    "Martin Luther King Jr. Day": (1, "Monday", 3),
    "Washington's Birthday": (2, "Monday", 3),
    "Memorial Day": (5, "Monday", -1),
    "Labor Day": (9, "Monday", 1),
    "Columbus Day": (10, "Monday", 2),
    "Thanksgiving Day": (11, "Thursday", 4),
}


def holiday(name, year):
    if name in FIXED:
        assert name != "Juneteenth National Independence Day" or year >= 2021
        return date(year, *FIXED[name])
    month, weekday, rank = WEEKDAY_OF_MONTH[name]
    days = [date(year, month, d + 1) for d in range(calendar.monthrange(year, month)[1])]
    found = [day for day in days if WEEKDAYS[day.weekday()] == weekday]
    return found[rank if rank < 0 else rank - 1]


def spoken_date(text):
    month, day, year = re.fullmatch(r"(\w+) (\d+), (\d{4})", text).groups()
    return date(int(year), MONTHS.index(month) + 1, int(day))


def months_back(day, months):
    """The same day of an earlier month, or that month's last."""
    year, month = divmod(day.year * 12 + day.month - 1 - months, 12)
    return date(year, month + 1, min(day.day, calendar.monthrange(year, month + 1)[1]))


def earlier(today, amount, unit):
    if unit in ("day", "week"):
        return today - timedelta(days=amount * (7 if unit == "week" else 1))
    return months_back(today, amount * (12 if unit == "year" else 1))


def whole_units(start, end, unit):
    """How often the unit fits between two days, by trying."""
    amount = 0
    while earlier(end, amount + 1, unit) >= start:
        amount += 1
    return amount


def template_and_answer(question, today):
    """Which of the paper's seven templates the question has, and its answer."""
    if match := re.fullmatch(r"How many days (ago was|are there until) (\w+ \d+, \d+)\?", question):
        distance = (spoken_date(match[2]) - today).days
        assert (distance < 0) == (match[1] == "ago was")
        return 1, str(abs(distance))
    if match := re.fullmatch(r"What (.+) was it (\d+) (\w+?)(s?) ago\?", question):
        amount = int(match[2])
        assert amount >= 1
        assert (match[4] == "s") == (amount > 1)
        return 2, FIELDS[match[1]](earlier(today, amount, match[3]))
    if match := re.fullmatch(r"What (.+) will it be in (\d+) days?\?", question):
        return 3, FIELDS[match[1]](today + timedelta(days=int(match[2])))
    if match := re.fullmatch(r"What day of the week (was|is) it on (.+)\?", question):
        day = spoken_date(match[2])
        assert (day < today) == (match[1] == "was")
        return 4, FIELDS["day of the week"](day)
    if match := re.fullmatch(rf"What (.+) (was|is) it ({'|'.join(NEAR)})\?", question):
        assert (NEAR[match[3]] < 0) == (match[2] == "was")
        return 5, FIELDS[match[1]](today + timedelta(days=NEAR[match[3]]))
    if match := re.fullmatch(r"What (.+) (was|is) (.+) this year\?", question):
        day = holiday(match[3], today.year)
        assert (day < today) == (match[2] == "was")
        assert match[1] != "year"
        return 6, FIELDS[match[1]](day)
    match = re.fullmatch(r"How many (\w+)s (ago was|are there until) (.+) this year\?", question)
    day = holiday(match[3], today.year)
    assert (day < today) == (match[2] == "ago was")
    return 7, str(whole_units(*sorted([day, today]), match[1]))


def questions(limit=None, seed=0):
    return [
        (item.prompt.removeprefix(PREFIX), date.fromisoformat(item.date), item.gold)
        for item in load_benchmark("dateset", limit, seed).items
    ]


SIZES = {1: 400, 2: 800, 3: 800, 4: 400, 5: 4000, 6: 1800, 7: 1200}


@pytest.fixture(scope="module")
def answered():
    """Template, and question with date, of the whole set; every answer is checked on the way."""
    found = []
    for question, today, gold in questions():
        template, answer = template_and_answer(question, today)
        assert gold == (answer,), (question, today)
        found.append((template, (question, today)))
    return found


def test_dateset_has_the_papers_templates_in_its_sizes(answered):
    assert Counter(template for template, _ in answered) == SIZES


def test_dateset_asks_nothing_twice_about_500_dates(answered):
    assert len({asked for _, asked in answered}) == 9400
    assert len({today for _, (_, today) in answered}) == 500


def test_dateset_has_every_unit_field_day_and_holiday(answered):
    text = " ".join(question for _, (question, _) in answered)
    for part in [*NEAR, *FIELDS, *FIXED, *WEEKDAY_OF_MONTH]:
        assert part in text
    for unit in ("days", "weeks", "months", "years"):
        assert re.search(rf"was it \d+ {unit} ago", text)
        assert f"How many {unit} ago was" in text
        assert f"How many {unit} are there until" in text


def test_dateset_dates_lie_within_four_years(answered):
    for template, (question, today) in answered:
        if template in (1, 4):
            day = spoken_date(re.search(r"\w+ \d+, \d{4}", question)[0])
            assert 1 <= abs((day - today).days) <= 4 * 365


@pytest.mark.parametrize("num_items", [47, 100, 1000])
def test_dateset_first_questions_have_the_papers_shares(answered, num_items):
    counts = Counter(template for template, _ in answered[:num_items])
    for template, size in SIZES.items():
        assert abs(counts[template] - num_items * size / 9400) <= 1


def test_dateset_prompt_is_the_papers():
    items = load_benchmark("dateset", 50, 0).items
    assert all(item.prompt.startswith(PREFIX) and item.prompt.endswith("?") for item in items)


def test_dateset_limit_takes_the_first_questions():
    assert questions(10, 1) == questions(50, 1)[:10]
    assert len(questions(20_000, 0)) == 9400


def test_dateset_other_seed_gives_other_questions():
    assert len(set(questions(100, 1)) & set(questions(100, 2))) < 5


def test_dateset_item_ids_are_unique():
    items = load_benchmark("dateset", None, 0).items
    assert len({item.item_id for item in items}) == 9400
