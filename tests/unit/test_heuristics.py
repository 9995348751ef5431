"""The paper's document heuristics, case by case."""

import sys
import types

import pytest

from tests.support.builders import document
from toolformer_core.errors import ConfigError
from toolformer_core.heuristics import (
    check_heuristic,
    document_rule,
    has_operation,
)


def rule(text, spec="paper", tool="Calculator", **fields):
    return document_rule(spec, tool, document(text=text, **fields), 0)


@pytest.mark.parametrize(
    "text",
    [
        "34 apples and 57 pears, 91 in all.",
        "Of 91 pieces 34 are apples and 57 are pears.",
        "12 boxes of 12 make 144.",
        "735 of 499 is 1.47.",
        "1,250 and 750 make 2,000.",
        "It rose from 0.5 by 0.25 to 0.75.",
    ],
)
def test_has_operation_numbers_that_belong_together_true(text):
    assert has_operation(text)
    assert rule(text) == "operation"


@pytest.mark.parametrize(
    "text",
    [
        "34 apples, 57 pears and 90 plums.",
        "34 apples make 34.",
        "Nothing to count.",
        "34 apples, " + "then " * 100 + "57 pears and 91 in all.",
        "7 days, 0 hours and 3 minutes.",
        "Pi is 3.1415926535897932384626433832795 over 2 and 7.",
        "1000000000000000000000000000000 men, 0.5 each, 3 more.",
    ],
)
def test_has_operation_unrelated_numbers_false(text):
    assert not has_operation(text)


def test_has_operation_numbers_just_within_the_window_true():
    assert has_operation("34 " + "then " * 97 + "57 91")
    assert not has_operation("34 " + "then " * 98 + "57 91")


@pytest.mark.parametrize(
    "text",
    ["x = 5", "That equals 12 or so.", "EQUAL TO $30", "a total of 1,200 men", "an average of .5"],
)
def test_document_rule_phrase_before_a_number_qualifies(text):
    assert rule(text) == "phrase"


@pytest.mark.parametrize("text", ["a total of many men", "the average of the lot", "x == y"])
def test_document_rule_phrase_without_a_number_does_not_qualify(text):
    assert rule(text) is None


def test_document_rule_three_numbers_one_document_in_a_hundred():
    ids = [f"document-{k}" for k in range(20_000)]
    rules = [rule("3 or 40 or 500", document_id=name) for name in ids]
    assert set(rules) == {None, "sampled"}
    assert 140 < rules.count("sampled") < 260
    assert {rule("3 or 40", document_id=name) for name in ids[:2000]} == {None}


def test_document_rule_calendar_needs_a_date():
    assert rule("Today.", tool="Calendar", date="2020-01-02") == "dated"
    assert rule("Today.", tool="Calendar", date=None) is None


ENGLISH_BEFORE = "The old house on the hill was sold to them"  # ten tokens each
ENGLISH_AFTER = "and nobody in the village has seen it since then"
FOREIGN = "La casa vieja de la colina fue vendida a una"


@pytest.mark.parametrize(
    "text",
    [
        f"{ENGLISH_BEFORE} {FOREIGN} {ENGLISH_AFTER}",
        f"{ENGLISH_BEFORE} {FOREIGN} {FOREIGN} {ENGLISH_AFTER}",
        f"{ENGLISH_BEFORE} {FOREIGN} {'1 ' * 10} {'+ ' * 10} {ENGLISH_AFTER}",
        f"Nothing here.\n{ENGLISH_BEFORE} {FOREIGN} {ENGLISH_AFTER}\nNor here.",
    ],
)
def test_document_rule_foreign_chunk_between_english_ones_qualifies(text):
    assert rule(text, tool="MT") == "foreign"


@pytest.mark.parametrize(
    "text",
    [
        "",
        ENGLISH_BEFORE,
        FOREIGN,
        f"{ENGLISH_BEFORE} {FOREIGN}",
        f"{FOREIGN} {ENGLISH_AFTER}",
        f"{ENGLISH_BEFORE} {'1 ' * 10} {ENGLISH_AFTER}",
        f"{ENGLISH_BEFORE} under the name La casa vieja in May last year {ENGLISH_AFTER}",
        f"{ENGLISH_BEFORE}\n{FOREIGN}\n{ENGLISH_AFTER}",
        f"{ENGLISH_BEFORE} {'Zzyq ' * 10} {ENGLISH_AFTER}",
        "\ud800 " * 40,
    ],
)
def test_document_rule_no_foreign_chunk_between_english_ones_does_not_qualify(text):
    assert rule(text, tool="MT") is None


def test_document_rule_tool_without_a_heuristic_takes_any():
    assert rule("Nothing to count.", tool="WikiSearch") == "any"
    assert rule("Nothing to count.", spec="none") == "any"


def test_document_rule_own_function_decides(monkeypatch):
    module = types.ModuleType("own_heuristics")
    module.long = lambda document: "long" if len(document.text) > 20 else None
    module.yes = lambda document: document.text == "yes"
    module.empty = lambda document: ""
    monkeypatch.setitem(sys.modules, "own_heuristics", module)
    assert rule("A text of some length.", spec="own_heuristics:long") == "long"
    assert rule("Short.", spec="own_heuristics:long") is None
    assert rule("yes", spec="own_heuristics:yes") == "custom"
    assert rule("no", spec="own_heuristics:yes") is None
    assert rule("no", spec="own_heuristics:empty") is None


@pytest.mark.parametrize(
    "spec", ["", "papers", "no_such_module:f", ".relative:f", "math:no_such", "math:pi"]
)
def test_check_heuristic_unknown_refused_in_one_line(spec):
    with pytest.raises(ConfigError, match="expected none, paper or MODULE:FUNCTION") as refused:
        check_heuristic(spec)
    assert "\n" not in str(refused.value)
    with pytest.raises(ConfigError):
        rule("Text.", spec=spec)
