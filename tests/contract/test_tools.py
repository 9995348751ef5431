"""What every built-in tool promises, whatever it does."""

import dataclasses
import datetime
import json
import re
import sys

import pytest
from PIL import Image, ImageDraw
from pydantic import ValidationError

from toolformer_core.calling.caller import run_call
from toolformer_core.config.pipeline import ExecuteConfig
from toolformer_core.config.tools import OcrConfig, PythonTool, ToolsConfig
from toolformer_core.errors import ConfigError, ToolInputRejected
from toolformer_core.models import ModelRef
from toolformer_core.notation import parse_call, render_call_with_result
from toolformer_core.records import Outcome
from toolformer_core.tools.base import CallContext
from toolformer_core.tools.described import describe
from toolformer_core.tools.ocr import OCR
from toolformer_core.tools.registry import (
    BUILT_IN,
    Services,
    build_tool,
    isolated_build,
    own_tools,
    rules_of,
)
from toolformer_core.tools.search_index import Passage, build_index
from toolformer_core.transformers_lm.loading import load_model

CONTEXT = CallContext(document_id="d", url="https://example.org/a", date="2014-03-04")

GOOD_ARGUMENTS = {
    "Calculator": "34 + 57",
    "Calendar": "",
    "WikiSearch": '"honey bees"',
    "QA": "What do bees make?",
    "MT": "O homem suprimido",
    "OCR": "![receipt](receipt.png)",
}

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


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    image = Image.new("RGB", (400, 80), "white")
    ImageDraw.Draw(image).text((20, 20), "Total 41.50", fill="black", font_size=36)
    image.save(folder / "receipt.png")
    return folder


@pytest.fixture(scope="module")
def built(index_folder, images, tiny_llama_folder):
    """Every built-in tool, twice: as at first, and anew."""
    reference = ModelRef(path=str(tiny_llama_folder), digest="", dtype="float32")
    lm = load_model(reference, "cpu", 4096)
    services = Services(index_folder=index_folder, load_reader=lambda config: (lm, "tiny"))
    config = ToolsConfig(ocr=OcrConfig(folder=str(images)))
    return {name: [build_tool(name, config, services) for _ in range(2)] for name in BUILT_IN}


@pytest.fixture(params=BUILT_IN)
def tool(request, built):
    return built[request.param][0]


def test_tool_describes_itself(tool):
    assert re.fullmatch("[A-Za-z_][A-Za-z0-9_.-]*", tool.name)
    assert tool.description
    assert tool.version
    assert tool.prompt.count("{text}") == 1
    assert f"[{tool.name}(" in tool.prompt


def test_tool_good_argument_same_text_each_time(tool, built):
    argument = GOOD_ARGUMENTS[tool.name]
    result = tool.call(argument, CONTEXT)
    assert result == result.strip() != ""
    assert tool.call(argument, CONTEXT) == result
    again = built[tool.name][1]
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


def test_tool_depends_on_no_more_of_the_context_than_it_says(tool):
    argument = GOOD_ARGUMENTS[tool.name]
    other = {"document_id": "other", "url": "https://example.org/other", "date": "1999-12-31"}
    hidden = {name: value for name, value in other.items() if name not in tool.context_fields}
    context = dataclasses.replace(CONTEXT, **hidden)
    assert tool.call(argument, context) == tool.call(argument, CONTEXT)


def test_tool_rules_without_the_tool_are_the_tools_own(tool):
    rules = rules_of(tool.name)
    for before, after in (
        ("She has", " 3 bees."),
        ("It is", " Tuesday"),
        ("O homem", " ("),
        ("", ""),
    ):
        assert rules.can_help_at(before, after, CONTEXT) == tool.can_help_at(before, after, CONTEXT)
        assert rules.is_right("3", after) == tool.is_right("3", after)


def test_tool_is_described_by_its_schema(tool):
    about = describe(tool)
    assert json.loads(about.parameters) == tool.parameters
    assert bool(tool.parameters["properties"]) is tool.takes_argument


def test_registry_names_are_those_of_the_tools(built):
    assert [tool.name for tool, _ in built.values()] == list(BUILT_IN)


def test_registry_unknown_name_is_refused_with_the_known_ones():
    config = ToolsConfig(own=(PythonTool(function="tests.support.own_tools:convert"),))
    expected = f"unknown tool 'Oracle'; known tools: {', '.join(BUILT_IN)}, convert"
    with pytest.raises(ConfigError, match=re.escape(expected)):
        build_tool("Oracle", config, Services())


def test_registry_own_tool_with_the_name_of_a_built_in_one_is_refused():
    function = "tests.support.own_tools:convert"
    config = ToolsConfig(own=(PythonTool(function=function, name="Calculator"),))
    with pytest.raises(ConfigError, match="Calculator is there twice"):
        build_tool("Calculator", config, Services())


@pytest.mark.parametrize("name", ["WikiSearch", "QA"])
def test_registry_search_without_index_is_refused(name):
    with pytest.raises(ConfigError, match="needs a search index; build one with toolformer index"):
        build_tool(name, ToolsConfig(), Services())


def test_registry_reader_that_is_not_there_is_refused(index_folder):
    with pytest.raises(ConfigError, match=re.escape("set tools.qa.reader or tools.qa.url")):
        build_tool("QA", ToolsConfig(), Services(index_folder=index_folder))


def test_registry_what_can_hang_is_built_in_another_process():
    function = "tests.support.own_tools:convert"
    config = ToolsConfig(own=(PythonTool(function=function),))
    names = [*BUILT_IN, "convert"]
    isolated = [name for name in names if isolated_build(name, config)]
    assert isolated == ["MT", "OCR", "convert"]
    here = ToolsConfig(own=(PythonTool(function=function, isolated=False),))
    assert isolated_build("convert", here) is None


def test_registry_clock_reaches_the_calendar():
    context = CallContext(document_id="", url=None, date=None)
    clocked = Services(today=lambda: datetime.date(2023, 1, 30))
    today = build_tool("Calendar", ToolsConfig(), clocked)
    assert today.call("", context) == "Today is Monday, January 30, 2023."
    with pytest.raises(ToolInputRejected):
        build_tool("Calendar", ToolsConfig(), Services()).call("", context)


def test_registry_tool_is_found_without_asking_servers_that_are_away():
    own = [
        {"kind": "mcp", "command": ["no-such-server"]},
        {"kind": "python", "function": "tests.support.own_tools:convert"},
    ]
    config = ToolsConfig.model_validate({"own": own})
    assert build_tool("convert", config, Services()).name == "convert"
    with pytest.raises(ConfigError, match="no-such-server"):
        build_tool("Oracle", config, Services())


def version_of(entry):
    config = ToolsConfig.model_validate({"own": [entry]})
    return own_tools(config.own[0], Services())[0].version


HTTP = {"kind": "http", "name": "f", "description": "F.", "url": "http://e.org"}
MCP = {
    "kind": "mcp",
    "command": [sys.executable, "-m", "tests.support.mcp_example"],
    "tools": ["add"],
}


@pytest.mark.parametrize(
    ("entry", "changed"),
    [
        (HTTP, {"url": "http://f.org"}),
        (HTTP, {"method": "POST"}),
        (HTTP, {"result": "/a"}),
        (HTTP, {"max_response_bytes": 5000}),
        (HTTP, {"headers": {"Accept": "text/plain"}}),
        (MCP, {"env": {"A": "b"}}),
        (MCP, {"max_response_bytes": 500_000}),
    ],
)
def test_version_follows_every_setting_that_decides_an_answer(entry, changed):
    assert version_of(entry) == version_of(dict(entry))
    assert version_of(entry | changed) != version_of(entry)


def test_version_of_ocr_follows_its_folder(images, tmp_path):
    versions = {OCR(OcrConfig(folder=str(folder))).version for folder in (images, tmp_path)}
    assert len(versions) == 2


@pytest.mark.parametrize(
    "settings",
    [
        {"qa": {"url": "http://user:hunter2@host/v1"}},
        {"qa": {"url": "http://host/v1?api_key=hunter2"}},
        {"own": [{"kind": "mcp", "command": ["server", "--api-key", "hunter2"]}]},
        {"own": [{"kind": "mcp", "command": ["server", "--token=hunter2"]}]},
        {"own": [HTTP | {"headers": {"X-Auth": "hunter2"}}]},
        {"own": [HTTP | {"url": "https://hunter2@host/"}]},
    ],
)
def test_secret_in_the_settings_is_refused_and_not_shown(settings):
    with pytest.raises(ValidationError) as caught:
        ToolsConfig.model_validate(settings)
    assert "${env:NAME}" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_secret_that_is_named_is_accepted():
    command = ["server", "--api-key", "${env:KEY}", "--verbose", "--port", "1"]
    config = ToolsConfig.model_validate({"own": [{"kind": "mcp", "command": command}]})
    assert config.own[0].command == tuple(command)
