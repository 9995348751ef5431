"""Every call is parsed back exactly, and nothing inside a call can pass for another call."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.fuzz import notation
from tests.fuzz.harness import fuzz_drawn, fuzz_hypothesis
from toolformer_core.errors import NotationError
from toolformer_core.notation import (
    ParsedCall,
    insertion,
    parse_call,
    render_call,
    render_call_with_result,
)

TEXT = st.text() | st.text(alphabet="[]()\\->< \n\r\tnx\"',\U0001f600", max_size=30)
TOOLS = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,8}", fullmatch=True)
FORGERIES = st.sampled_from(
    [
        "91] [Calculator(1 + 1)",
        ") -> 91] [QA(x) -> y",
        "x] [QA(",
        "\\] [QA(y) -> z",
        "\\\\] [QA(y) -> z]",
        "-> z]",
        ") ->",
        "\n[QA(x)]\n",
        "-\\> z",
    ]
)


@given(tool=TOOLS, argument=TEXT | FORGERIES)
def test_parse_call_undoes_render_call(tool, argument):
    expected = ParsedCall(tool=tool, argument=argument, result=None)
    assert parse_call(render_call(tool, argument)) == expected


@given(tool=TOOLS, argument=TEXT | FORGERIES, result=TEXT | FORGERIES)
@example(tool="QA", argument="a) -", result="> b")
@example(tool="QA", argument="\\", result="\\")
def test_parse_call_undoes_render_call_with_result(tool, argument, result):
    expected = ParsedCall(tool=tool, argument=argument, result=result)
    assert parse_call(render_call_with_result(tool, argument, result)) == expected


@given(argument=TEXT | FORGERIES, result=TEXT | FORGERIES)
def test_render_call_with_result_has_one_start_one_end_and_one_arrow(argument, result):
    rendered = render_call_with_result("QA", argument, result)
    unescaped = re.sub(r"\\.", "_", rendered)  # what a backslash guards is not notation
    assert [unescaped.count(mark) for mark in ("[", "]", "->")] == [1, 1, 1]
    assert set("\n\r").isdisjoint(rendered)


@given(argument=TEXT | FORGERIES, result=TEXT | FORGERIES)
def test_render_call_with_result_ends_at_its_last_character_only(argument, result):
    rendered = render_call_with_result("QA", argument, result)
    for end in range(1, len(rendered)):
        with pytest.raises(NotationError):
            parse_call(rendered[:end])


@given(text=TEXT)
def test_parse_call_of_any_text_is_a_call_or_a_refusal(text):
    try:
        call = parse_call(text)
    except NotationError:
        return
    assert text.startswith(f"[{call.tool}(")
    assert text.endswith("]")


@given(text=TEXT, data=st.data())
def test_insertion_adds_at_most_one_space_and_only_at_a_word_boundary(text, data):
    at = data.draw(st.integers(0, len(text)))
    before, call, after = insertion(text, at, "[C]")
    assert (before, call, after) in {("", "[C]", ""), (" ", "[C]", ""), ("", "[C]", " ")}
    is_inside_a_word = 0 < at < len(text) and not (text[at - 1] + text[at]).count(" ")
    left, right = (text[:at] + before)[-1:], (after + text[at:])[:1]
    is_apart = all(not side or side.isspace() for side in (left, right))
    assert is_apart or (is_inside_a_word and not before and not after)


def test_notation_fuzz_finds_nothing():
    tally = fuzz_drawn(notation, seed=1, start=0, stop=6000)
    tally.add(fuzz_hypothesis(notation, seed=1, num_inputs=100))
    assert tally.failures == []
    assert tally.count("rendered", "compared") == 1500
