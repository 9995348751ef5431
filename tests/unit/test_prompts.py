"""The few-shot prompts: demonstrations that are true, and that only insert calls."""

import datetime
import re

import pytest

from toolformer_core.notation import parse_call
from toolformer_core.tools.base import NO_DOCUMENT, load_prompt, looks_ahead
from toolformer_core.tools.calculator import Calculator
from toolformer_core.tools.calendar import MONTHS, WEEKDAYS, Calendar, format_today
from toolformer_core.tools.machine_translation import MT
from toolformer_core.tools.ocr import OCR
from toolformer_core.tools.qa import QA
from toolformer_core.tools.wiki_search import WikiSearch

TOOLS = {
    "calculator": Calculator,
    "calendar": Calendar,
    "wiki_search": WikiSearch,
    "qa": QA,
    "machine_translation": MT,
    "ocr": OCR,
}

CALL = re.compile(r"\[[^\]]*\] ")
DEMONSTRATION = re.compile(r"^Input:\n(.+)\nOutput:\n(.+)\n", re.MULTILINE)
DATE = re.compile(rf"({'|'.join(WEEKDAYS)}), ({'|'.join(MONTHS)}) (\d+), (\d+)")


def demonstrations(name):
    return DEMONSTRATION.findall(load_prompt(name))


def placed_calls(name):
    """Every call of the demonstrations with the text before and after it."""
    for text, output in demonstrations(name):
        for match in CALL.finditer(output):
            before = CALL.sub("", output[: match.start()])
            yield parse_call(match[0].rstrip()), before, text[len(before) :]


@pytest.mark.parametrize("name", TOOLS)
def test_prompt_ends_with_the_slot_for_the_text(name):
    prompt = load_prompt(name)
    assert prompt.endswith("\nInput:\n{text}\nOutput:\n")
    assert prompt.count("{text}") == 1
    assert prompt.isascii()


@pytest.mark.parametrize("name", TOOLS)
def test_prompt_is_short_and_has_four_or_five_demonstrations(name):
    assert len(demonstrations(name)) in (4, 5)
    assert len(load_prompt(name)) < 1200


@pytest.mark.parametrize("name", TOOLS)
def test_demonstration_output_is_its_input_with_calls(name):
    for text, output in demonstrations(name):
        assert CALL.sub("", output) == text
        assert output != text


@pytest.mark.parametrize("name", TOOLS)
def test_demonstration_calls_are_of_the_tool_and_without_result(name):
    for call, before, after in placed_calls(name):
        assert call.tool == TOOLS[name].name
        assert call.result is None
        assert before.endswith(" ")
        assert not after.startswith(" ")


@pytest.mark.parametrize("name", TOOLS)
def test_demonstration_calls_do_not_look_ahead(name):
    for call, before, after in placed_calls(name):
        assert not looks_ahead(call.argument, before, after)


def test_calculator_demonstrations_are_right_and_allowed():
    calculator = Calculator()
    for call, before, after in placed_calls("calculator"):
        assert calculator.is_right(calculator.call(call.argument, NO_DOCUMENT), after)
        assert calculator.can_help_at(before.rstrip(), f" {after}", NO_DOCUMENT)


def test_calendar_demonstrations_name_true_days_right_after_the_call():
    calls = list(placed_calls("calendar"))
    dates = [match for _, _, after in calls if (match := DATE.match(after))]
    assert len(dates) == 3
    for weekday, month, day, year in (match.groups() for match in dates):
        stated = datetime.date(int(year), MONTHS.index(month) + 1, int(day))
        assert WEEKDAYS[stated.weekday()] == weekday
        assert Calendar().is_right(format_today(stated), f"{weekday}, {month} {day}, {year}")


def test_calendar_calls_have_no_argument_and_searches_are_quoted():
    assert {call.argument for call, _, _ in placed_calls("calendar")} == {""}
    assert all(re.fullmatch('"[^"]+"', call.argument) for call, _, _ in placed_calls("wiki_search"))
