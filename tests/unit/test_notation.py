"""Linearised calls: the paper's spelling, escapes, what is no call, and where spaces go."""

import pytest

from toolformer_core.errors import NotationError
from toolformer_core.notation import (
    CALL_PATTERN,
    ParsedCall,
    insertion,
    is_place,
    parse_call,
    render_call,
    render_call_with_result,
    unquote,
)


def test_render_call_is_spelled_as_in_the_paper():
    assert render_call("Calculator", "400 / 1400") == "[Calculator(400 / 1400)]"


def test_render_call_with_result_is_spelled_as_in_the_paper():
    text = render_call_with_result("Calculator", "400 / 1400", "0.29")
    assert text == "[Calculator(400 / 1400) -> 0.29]"


def test_render_call_with_empty_result_keeps_the_arrow():
    assert render_call_with_result("Calendar", "", "") == "[Calendar() -> ]"


@pytest.mark.parametrize(
    ("argument", "escaped"),
    [
        ("a]b", "a\\]b"),
        ("a[b", "a\\[b"),
        ("a -> b", "a -\\> b"),
        ("a\nb\rc", "a\\nb\\rc"),
        ("a\\b", "a\\\\b"),
        ("a\\nb", "a\\\\nb"),
        ("f(x)", "f(x)"),
    ],
)
def test_render_call_special_characters_are_escaped(argument, escaped):
    assert render_call("QA", argument) == f"[QA({escaped})]"


@pytest.mark.parametrize(
    ("text", "tool", "argument", "result"),
    [
        ("[Calendar()]", "Calendar", "", None),
        ("[Calculator(1 + 2)]", "Calculator", "1 + 2", None),
        ("[Calculator(1 + 2) -> 3]", "Calculator", "1 + 2", "3"),
        ("[Calculator((1 + 2) * 3) -> 9]", "Calculator", "(1 + 2) * 3", "9"),
        ('[QA("who?") -> Ann (Lee)]', "QA", '"who?"', "Ann (Lee)"),
        ("[QA(x) -> ]", "QA", "x", ""),
        ("[QA(x) ->]", "QA", "x", ""),
        ("[QA( x ) ->  y ]", "QA", " x ", " y "),
        ("[my-tool.v2(x)]", "my-tool.v2", "x", None),
        ("[QA(a\nb)]", "QA", "a\nb", None),
    ],
)
def test_parse_call_well_formed_text_is_read(text, tool, argument, result):
    assert parse_call(text) == ParsedCall(tool=tool, argument=argument, result=result)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "QA(x)",
        "[QA x]",
        "[QA(x]",
        "[QA(x)",
        "[(x)]",
        "[3d(x)]",
        "[QA(x)] ",
        " [QA(x)]",
        "[QA(x)]\n",
        "[QA(x)][QA(y)]",
        "[QA(x) [QA(y)]]",
        "[QA(x) - > y]",
        "[QA(x)-> y]",
        "[QA(x) y]",
        "[QA(x\\)]",
        "[Q A(x)]",
    ],
)
def test_parse_call_anything_else_is_refused(text):
    with pytest.raises(NotationError):
        parse_call(text)


def test_parse_call_refusal_shows_text_and_expectation():
    with pytest.raises(NotationError, match=r"'\[QA x\]'; expected \[Name\(argument\) -> result\]"):
        parse_call("[QA x]")


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("so [QA(x)] it", ["[QA(x)] "]),
        ("[QA(f(x))][QA(y)]", ["[QA(f(x))]", "[QA(y)]"]),
        ("[QA(a->b)]", ["[QA(a->b)]"]),
        ("[QA(a [QA(b)]", ["[QA(b)]"]),
        ("[QA(x) -> y(z)]", []),
        ("[QA(x) -> \\[QA(y)]", []),
        ("[QA(\\[QA(y\\]) -> z(1)]", []),
        ("[QA(x) ->]", []),
        ("[Q A(x)]", []),
    ],
)
def test_call_pattern_finds_calls_without_result_only(text, calls):
    assert CALL_PATTERN.findall(text) == calls


@pytest.mark.parametrize("fragment", [") -> ", ") ->] ", "\\[A(", "[A(", "\\", ")", ")]", "->"])
def test_notation_long_repetition_is_refused_in_linear_time(fragment):
    text = "[A(" + fragment * (500_000 // len(fragment)) + "["
    with pytest.raises(NotationError):  # in quadratic time this would take minutes
        parse_call(text)
    assert len(CALL_PATTERN.sub("", text)) <= len(text)


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ('"x"', "x"),
        (' " x y " ', "x y"),
        ("x", "x"),
        ('"', '"'),
        ('""', ""),
        ('"x', '"x'),
        ('""x""', '"x"'),
        ("", ""),
    ],
)
def test_unquote_takes_one_pair_of_quotes(argument, expected):
    assert unquote(argument) == expected


@pytest.mark.parametrize(
    ("text", "char_offset", "expected"),
    [
        ("makes 91.", 5, "makes [C] 91."),
        ("makes 91.", 6, "makes [C] 91."),
        ("makes 91.", 0, "[C] makes 91."),
        ("makes 91.", 9, "makes 91. [C]"),
        ("makes 91.", 8, "makes 91[C]."),
        ("", 0, "[C]"),
        ("a\nb", 1, "a [C]\nb"),
        ("a\nb", 2, "a\n[C] b"),
    ],
)
def test_insertion_puts_one_space_between_call_and_words(text, char_offset, expected):
    before, call, after = insertion(text, char_offset, "[C]")
    assert text[:char_offset] + before + call + after + text[char_offset:] == expected


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("12 - 85 =", " -", True),
        ("12 - 85 =", " -73", True),
        ("12 - 85 = -", "7", False),
        ("12 -", " 85", True),
        ("12", "-85", True),
        ("on 2019", "-03", True),
        ("(", "-4", True),
        ("(-", "4", False),
        ("costs $", "5", False),
        ("costs -", "$", False),
        ("costs", " $5", True),
        ("is 1", "2", False),
        ("is 1,", "000", False),
        ("is 1", ".5", False),
        ("it is 1", ".", True),
        ("is 40", "%", False),
        ("is 40", " %", False),
        ("the 1", "st", False),
        ("app", "les", False),
        ("apples", "", True),
        ("is ", "7", False),
        ("", "7", True),
    ],
)
def test_is_place_never_splits_a_word_or_a_number_with_its_sign(before, after, expected):
    assert is_place(before, after) is expected


def test_is_place_looks_back_as_far_as_a_word_goes():
    assert not is_place("x " * 40 + "costs -", "$5")
    assert is_place("x " * 40 + "costs", " -$5")
