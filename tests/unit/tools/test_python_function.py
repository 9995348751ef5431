"""Python functions as tools."""

import pytest

from toolformer_core.config.tools import PythonTool
from toolformer_core.errors import ConfigError, ToolError, ToolInputRejected
from toolformer_core.tools.base import NO_DOCUMENT, CallContext
from toolformer_core.tools.python_function import PythonFunction

MODULE = "tests.support.own_tools"


def tool(name, **settings):
    return PythonFunction(PythonTool(function=f"{MODULE}:{name}", **settings))


def test_python_function_describes_itself():
    convert = tool("convert")
    assert convert.name == "convert"
    assert convert.description == "Converts a length between kilometres and miles."
    assert convert.arguments.signature() == 'amount: number, source: km or mi, to: km or mi = "mi"'
    assert convert.takes_argument
    assert convert.context_fields == ()
    assert '[convert(amount: number, source: km or mi, to: km or mi = "mi")]' in convert.prompt


@pytest.mark.parametrize(
    ("argument", "result"),
    [("10, km", "6.2"), ('amount=1, source="mi", to="km"', "1.6"), ("'1,000', km, mi", "621.4")],
)
def test_python_function_answers(argument, result):
    assert tool("convert").call(argument, NO_DOCUMENT) == result


@pytest.mark.parametrize("argument", ["", "ten, km", "10, yd", "-1, km", "1, km, mi, x"])
def test_python_function_bad_argument_is_rejected(argument):
    with pytest.raises(ToolInputRejected):
        tool("convert").call(argument, NO_DOCUMENT)


def test_python_function_context_is_handed_over_and_not_the_models_to_give():
    days_old = tool("days_old")
    assert days_old.arguments.names == ("day",)
    assert days_old.context_fields == ("document_id", "url", "date")
    context = CallContext(document_id="d", url=None, date="2020-05-20")
    assert days_old.call("18", context) == "2"
    assert days_old.call("18", NO_DOCUMENT) == ""


@pytest.mark.parametrize(("kind", "text"), [("list", '[1, "a"]'), ("none", ""), ("float", "0.5")])
def test_python_function_result_becomes_text(kind, text):
    assert tool("anything").call(kind, NO_DOCUMENT) == text


@pytest.mark.parametrize("kind", ["bytes", "nan"])
def test_python_function_result_that_is_no_text_is_refused(kind):
    with pytest.raises(ToolError, match="expected text"):
        tool("anything").call(kind, NO_DOCUMENT)


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("untyped", "annotate it, as in a: str"),
        ("undescribed", "no docstring; write one"),
        ("starred", "cannot be given by name"),
        ("later", "write a plain one"),
        ("opaque", "make no schema"),
        ("missing", "expected MODULE:FUNCTION"),
    ],
)
def test_python_function_that_cannot_be_a_tool_is_refused(name, cure):
    with pytest.raises(ConfigError, match=cure):
        tool(name)


def test_python_function_demonstrations_stand_in_the_prompt_with_and_without_their_calls():
    text = "It is 10 km, or [convert(10, km)] 6.2 miles, to the coast."
    prompt = tool("convert", demonstrations=(text,)).prompt
    assert f"Input:\nIt is 10 km, or 6.2 miles, to the coast.\nOutput:\n{text}\n" in prompt
    assert prompt.endswith("Input:\n{text}\nOutput:\n")


def test_python_function_demonstration_without_a_call_is_refused():
    with pytest.raises(ConfigError, match="has no call"):
        tool("convert", demonstrations=("It is 10 km.",))


def test_python_function_version_follows_the_source(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    versions = []
    for name, factor in (("twice_a", 2), ("twice_b", 2), ("twice_c", 3)):
        source = f'def f(a: int) -> int:\n    """Multiplies."""\n    return a * {factor}\n'
        (tmp_path / f"{name}.py").write_text(source)
        versions.append(PythonFunction(PythonTool(function=f"{name}:f")).version)
    assert len(set(versions)) == 3  # the module's name counts too
    assert versions[0] == PythonFunction(PythonTool(function="twice_a:f")).version
