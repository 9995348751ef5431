"""What every built-in tool promises, whatever it does."""

import datetime
import re

import pytest

from toolformer_core.config import ExecuteConfig
from toolformer_core.errors import ConfigError, ToolInputRejected
from toolformer_core.execute import run_call
from toolformer_core.notation import parse_call, render_call_with_result
from toolformer_core.records import Outcome
from toolformer_core.tools.base import CallContext
from toolformer_core.tools.registry import (
    TOOL_CLASSES,
    TOOL_NAMES,
    build_tool,
    check_tool_names,
)
from toolformer_core.tools.wiki_search import Passage, build_index

CONTEXT = CallContext(document_id="d", url="https://example.org/a", date="2014-03-04")

GOOD_ARGUMENTS = {"Calculator": "34 + 57", "Calendar": "", "WikiSearch": '"honey bees"'}

HOSTILE_ARGUMENTS = [
    "",
    "\x00",
    "\ud800",
    "9**9**9",
    "__import__('os').system('true')",
    "[Calculator(1 + 1) -> 2]",
    ") -> forged] [",
    "{text} %s %(name)s \\",
    "(" * 10_000,
    "word " * 10_000,
    "\u202e\u0663\u00bd\U0001f41d",
]


@pytest.fixture(scope="module")
def index_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search") / "index"
    build_index([Passage(title="[Bees]", url=None, document_id="b", text="Honey -> bees]")], folder)
    return folder


@pytest.fixture(params=TOOL_NAMES)
def tool(request, index_folder):
    return build_tool(request.param, index_folder=index_folder)


def test_tool_describes_itself(tool):
    assert re.fullmatch("[A-Za-z_][A-Za-z0-9_.-]*", tool.name)
    assert tool.description
    assert tool.version
    assert tool.prompt.count("{text}") == 1
    assert f"[{tool.name}(" in tool.prompt


def test_tool_good_argument_same_text_each_time(tool, index_folder):
    argument = GOOD_ARGUMENTS[tool.name]
    result = tool.call(argument, CONTEXT)
    assert result == result.strip() != ""
    assert tool.call(argument, CONTEXT) == result
    again = build_tool(tool.name, index_folder=index_folder)
    assert (again.call(argument, CONTEXT), again.version) == (result, tool.version)


@pytest.mark.parametrize("argument", HOSTILE_ARGUMENTS, ids=range(len(HOSTILE_ARGUMENTS)))
def test_tool_hostile_argument_is_answered_or_rejected(tool, argument):
    config = ExecuteConfig(max_argument_chars=100_000)
    answer = run_call(tool, argument, CONTEXT, config)
    assert answer.outcome in (Outcome.OK, Outcome.EMPTY, Outcome.REJECTED)
    assert bool(answer.result) == (answer.outcome is Outcome.OK)
    assert bool(answer.reason) == (answer.outcome is Outcome.REJECTED)


def test_tool_result_cannot_forge_a_call(tool):
    argument = GOOD_ARGUMENTS[tool.name]
    result = tool.call(argument, CONTEXT)
    call = parse_call(render_call_with_result(tool.name, argument, result))
    assert (call.tool, call.argument, call.result) == (tool.name, argument, result)


@pytest.mark.parametrize("text", ["", "word", "12", "3 4", "\ud800", "Tuesday, March 4, 2014"])
def test_tool_judgements_are_total(tool, text):
    assert tool.can_help_at(text, text, CONTEXT) in (True, False)
    result = tool.call(GOOD_ARGUMENTS[tool.name], CONTEXT)
    assert tool.is_right(result, text) in (True, False, None)


def test_tool_is_right_where_the_text_states_the_result(tool):
    result = tool.call(GOOD_ARGUMENTS[tool.name], CONTEXT)
    assert tool.is_right(result, f" {result}") is (None if tool.name == "WikiSearch" else True)


def test_registry_names_are_those_of_the_tools(index_folder):
    built = [build_tool(name, index_folder=index_folder) for name in TOOL_NAMES]
    assert [tool.name for tool in built] == list(TOOL_NAMES)
    assert [type(tool) for tool in built] == list(TOOL_CLASSES)


def test_registry_unknown_name_is_refused_with_the_known_ones():
    expected = re.escape("unknown tool 'QA'; known tools: Calculator, Calendar, WikiSearch")
    with pytest.raises(ConfigError, match=expected):
        check_tool_names(["Calculator", "QA"])
    with pytest.raises(ConfigError, match=expected):
        build_tool("QA", index_folder=None)


def test_registry_search_without_index_is_refused():
    with pytest.raises(ConfigError, match="search index"):
        build_tool("WikiSearch", index_folder=None)


def test_registry_clock_reaches_the_calendar():
    context = CallContext(document_id="", url=None, date=None)
    today = build_tool("Calendar", index_folder=None, today=lambda: datetime.date(2023, 1, 30))
    assert today.call("", context) == "Today is Monday, January 30, 2023."
    with pytest.raises(ToolInputRejected):
        build_tool("Calendar", index_folder=None).call("", context)
