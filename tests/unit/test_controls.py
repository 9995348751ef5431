"""Results of other calls in the place of a call's own."""

import pytest

from toolformer_core.calling.caller import ToolCaller
from toolformer_core.calling.wrong_caller import WrongCaller
from toolformer_core.config.pipeline import ExecuteConfig
from toolformer_core.controls import shuffled_result, wrong_result
from toolformer_core.records import Outcome
from toolformer_core.tools.base import NO_DOCUMENT
from toolformer_core.tools.calculator import Calculator


def answers(pool, *arguments):
    caller = WrongCaller(ToolCaller(Calculator(), ExecuteConfig()), pool)
    return caller.answers([(argument, NO_DOCUMENT) for argument in arguments])


def test_wrong_caller_never_gives_the_own_result():
    arguments = [f"{a} + {b}" for a in range(1, 9) for b in range(1, 9)]
    pool = tuple(str(n) for n in range(2, 17))
    given = answers(pool, *arguments)
    assert all(answer.outcome is Outcome.OK for answer in given)
    for argument, answer in zip(arguments, given, strict=True):
        assert answer.result in pool
        assert int(answer.result) != eval(argument)
    assert len({answer.result for answer in given}) > 8


def test_wrong_caller_gives_the_same_result_again_and_in_any_batch():
    pool = ("7", "8", "9", "10")
    [alone] = answers(pool, "2 + 3")
    together = answers(pool, "1 + 1", "2 + 3", "4 + 4")
    assert together[1].result == alone.result


def test_wrong_caller_shuffles_where_there_is_no_other_result():
    [answer] = answers(("91",), "34 + 57")
    assert answer.result == "19"


def test_wrong_caller_with_nothing_to_give_fails_the_call():
    [answer] = answers((), "3 + 4")
    assert (answer.outcome, answer.result) == (Outcome.FAILED, "")
    assert answer.reason == "no other result to give"


def test_wrong_caller_still_refuses_what_the_tool_refuses():
    [answer] = answers(("7", "8"), "seven")
    assert answer.outcome is Outcome.REJECTED


@pytest.mark.parametrize("result", ["7", "", "aa", "a a"])
def test_shuffled_result_without_another_order_is_none(result):
    assert shuffled_result(result, "key") is None


def test_shuffled_result_keeps_the_words():
    text = "Today is Monday, January 30, 2023."
    shuffled = shuffled_result(text, "key")
    assert shuffled != text
    assert sorted(shuffled.split()) == sorted(text.split())


def test_wrong_result_without_another_is_none():
    assert wrong_result("7", "key", ("7",)) is None
    assert wrong_result("7", "key", ()) is None
