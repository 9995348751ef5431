"""Arguments of tools: what a model may write between the brackets, and what it may not."""

import re

import pytest

from toolformer_core.errors import ConfigError, ToolInputRejected
from toolformer_core.tools.arguments import ArgumentSchema

CONVERT = ArgumentSchema(
    {
        "type": "object",
        "properties": {
            "to": {"enum": ["m", "ft"]},
            "amount": {"type": "number"},
            "exact": {"type": "boolean", "default": False},
            "tags": {"type": "array", "items": {"type": "integer"}},
        },
        "required": ["to", "amount"],
    },
    "Convert",
)
ONE = ArgumentSchema({"properties": {"query": {"type": "string"}}}, "Search")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("m, 10", {"to": "m", "amount": 10}),
        ('"m", 10.5', {"to": "m", "amount": 10.5}),
        ("m, -1", {"to": "m", "amount": -1}),
        ("to=m, amount=10", {"to": "m", "amount": 10}),
        ("m, amount='1,000'", {"to": "m", "amount": 1000}),
        ('{"to": "ft", "amount": 3}', {"to": "ft", "amount": 3}),
        ("m, 1, yes", {"to": "m", "amount": 1, "exact": True}),
        ("m, 1, exact=True", {"to": "m", "amount": 1, "exact": True}),
        ("m, 1, tags=[1, 2]", {"to": "m", "amount": 1, "tags": [1, 2]}),
        (" m ,10 ", {"to": "m", "amount": 10}),
    ],
)
def test_arguments_are_read_as_they_are_written(text, expected):
    assert CONVERT.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "'to' is a required property"),
        ("m", "'amount' is a required property"),
        ("m, ten", "'ten' is not of type 'number'"),
        ("yd, 1", "'yd' is not one of ['m', 'ft']"),
        ("m, 1, yes, [1], 5", "5 arguments; expected (to: m or ft, amount: number"),
        ("m, to=m", "to is given twice"),
        ("to=m, to=ft", "to is given twice"),
        ("m, 1e999", "is not of type 'number'"),
        ("m, nan", "'nan' is not of type 'number'"),
        ('{"to": "m", "amount": NaN}', "is not one of ['m', 'ft']"),
        ("m, __import__('os').getpid()", "is not of type 'number'"),
        ("m, 1 if 1 else 2", "is not of type 'number'"),
        ("x" * 4001, "4001 characters"),
    ],
)
def test_arguments_that_do_not_fit_are_rejected_with_a_reason(text, reason):
    with pytest.raises(ToolInputRejected, match=re.escape(reason)):
        CONVERT.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "\x00",
        "\ud800",
        "(" * 3000,
        "[" * 3000,
        "{" * 3000,
        ")",
        "f(",
        "*a, **b",
        "a=",
        "=",
        ",,,,,",
    ],
)
def test_arguments_hostile_text_is_rejected_and_nothing_else(text):
    with pytest.raises(ToolInputRejected):
        CONVERT.parse(text)


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("Oslo, the capital", "Oslo, the capital"),
        ('"Oslo"', "Oslo"),
        ("1 + 1 = 2", "1 + 1 = 2"),
        ("query='Oslo'", "Oslo"),
        ("1,5", "1,5"),
    ],
)
def test_arguments_single_parameter_takes_the_whole_text(text, query):
    assert ONE.parse(text) == {"query": query}


def test_arguments_numbers_stay_as_written_where_a_text_is_wanted():
    schema = ArgumentSchema({"properties": {"a": {"type": "string"}, "b": {}}}, "Tool")
    assert schema.parse("1.50, x") == {"a": "1.50", "b": "x"}


def test_arguments_signature_shows_required_ones_first():
    assert CONVERT.signature() == (
        "to: m or ft, amount: number, exact: boolean = false, tags: array = null"
    )


@pytest.mark.parametrize("schema", [{"type": "string"}, {"properties": 3}, {"type": "objekt"}])
def test_arguments_schema_that_is_none_is_refused(schema):
    with pytest.raises(ConfigError, match="tool Broken: parameters"):
        ArgumentSchema(schema, "Broken")


def test_arguments_schema_is_never_fetched_from_an_address():
    schema = ArgumentSchema({"properties": {"a": {"$ref": "http://127.0.0.1:9/schema"}}}, "Tool")
    with pytest.raises(ToolInputRejected, match="refers to"):
        schema.parse("1")
