"""The execute stage on a scripted tool: every outcome, and what is an outage instead."""

import threading

import pytest

from tests.support.builders import document, executed_call, proposed_call
from toolformer_core.config import ExecuteConfig
from toolformer_core.errors import DataError, ToolError, ToolInputRejected, TransientToolError
from toolformer_core.execute import count_outcomes, execute_calls, run_call
from toolformer_core.records import DropReason, Outcome
from toolformer_core.tools.base import NO_DOCUMENT, context_of
from toolformer_core.tools.calculator import Calculator

CONFIG = ExecuteConfig(timeout_seconds=5, max_argument_chars=40, max_result_chars=12)


class ScriptedTool:
    """Answers with what its table says: a text, an exception, or a function of no argument."""

    name = "Scripted"
    description = "A table."
    version = "7"
    prompt = "{text}"

    def __init__(self, table):
        self.table = table
        self.calls = []

    def call(self, argument, context):
        self.calls.append((argument, context))
        answer = self.table[argument]
        if isinstance(answer, BaseException):
            raise answer
        return answer() if callable(answer) else answer

    def can_help_at(self, before, context):
        return True

    def is_right(self, result, after):
        return None


def run(answer, config=CONFIG):
    return run_call(ScriptedTool({"x": answer}), "x", NO_DOCUMENT, config)


def test_run_call_answer_is_ok_and_stripped():
    outcome, reason, result, latency_seconds = run("  one\ntwo \n")
    assert (outcome, reason, result) == (Outcome.OK, "", "one\ntwo")
    assert latency_seconds >= 0


def test_run_call_long_result_is_cut():
    assert run("0123456789 123456").result == "0123456789 1"
    assert run("01234567890 23456").result == "01234567890"


@pytest.mark.parametrize("answer", ["", " \n"])
def test_run_call_blank_result_is_empty(answer):
    assert run(answer)[:3] == (Outcome.EMPTY, "", "")


def test_run_call_rejection_carries_the_reason():
    assert run(ToolInputRejected("no operation"))[:3] == (Outcome.REJECTED, "no operation", "")


def test_run_call_long_reason_is_cut():
    assert len(run(ToolInputRejected("x" * 10_000)).reason) == 300


def test_run_call_long_argument_is_rejected_unseen():
    tool = ScriptedTool({})
    answer = run_call(tool, "x" * 41, NO_DOCUMENT, CONFIG)
    assert answer[:3] == (Outcome.REJECTED, "argument of 41 characters; at most 40", "")
    assert tool.calls == []


def test_run_call_tool_error_is_failed():
    assert run(ToolError("broken index"))[:3] == (Outcome.FAILED, "broken index", "")


@pytest.mark.parametrize(
    "fault",
    [
        ValueError("at 0x1"),
        TypeError(),
        KeyError("k"),
        ZeroDivisionError(),
        IndexError(),
        AttributeError(),
        RuntimeError(),
        RecursionError(),
    ],
)
def test_run_call_fault_of_user_code_is_failed_by_type_name(fault):
    assert run(fault)[:3] == (Outcome.FAILED, type(fault).__name__, "")


def test_run_call_result_that_is_no_text_is_failed():
    assert run(lambda: 7)[:3] == (Outcome.FAILED, "Scripted returned int, expected text", "")


def test_run_call_without_answer_in_time_is_timed_out():
    released = threading.Event()
    try:
        config = CONFIG.model_copy(update={"timeout_seconds": 0.05})
        outcome, reason, result, latency_seconds = run(released.wait, config)
    finally:
        released.set()
    assert (outcome, reason, result) == (Outcome.TIMED_OUT, "no answer within 0.05 s", "")
    assert 0.05 <= latency_seconds < 5


def test_run_call_outage_is_raised():
    with pytest.raises(TransientToolError, match="rate limit"):
        run(TransientToolError("rate limit"))


@pytest.mark.parametrize("error", [ConnectionRefusedError("refused"), TimeoutError("read")])
def test_run_call_network_error_is_an_outage(error):
    with pytest.raises(TransientToolError, match=f"Scripted: {type(error).__name__}") as caught:
        run(error)
    assert caught.value.__cause__ is error


def test_run_call_unforeseen_exception_is_raised_as_it_is():
    class Unforeseen(Exception):
        pass

    with pytest.raises(Unforeseen):
        run(Unforeseen())


def test_execute_calls_right_call_gives_its_record():
    proposed = [proposed_call()]
    [executed] = execute_calls(proposed, {"document-1": document()}, Calculator(), CONFIG)
    assert executed == executed_call(latency_seconds=executed.latency_seconds)


def test_execute_calls_dropped_call_is_left_out():
    dropped = [proposed_call(argument="no", drop_reason=reason) for reason in DropReason]
    tool = ScriptedTool({})
    assert execute_calls(dropped, {}, tool, CONFIG) == []
    assert tool.calls == []


def test_execute_calls_equal_calls_run_once_in_order():
    documents = {name: document(document_id=name) for name in ("a", "b")}
    proposed = [
        proposed_call(candidate_id=f"{name}{offset}", document_id=name, char_offset=offset)
        for name in documents
        for offset in (1, 2)
    ]
    tool = ScriptedTool({"34 + 57": "91"})
    executed = execute_calls(proposed, documents, tool, CONFIG)
    assert [call.candidate_id for call in executed] == ["a1", "a2", "b1", "b2"]
    assert {call.tool_version for call in executed} == {"7"}
    assert tool.calls == [("34 + 57", context_of(documents[name])) for name in documents]


def test_execute_calls_outage_leaves_the_stage():
    tool = ScriptedTool({"34 + 57": TransientToolError("down")})
    with pytest.raises(TransientToolError):
        execute_calls([proposed_call()], {"document-1": document()}, tool, CONFIG)


def test_execute_calls_unknown_document_raises():
    with pytest.raises(DataError, match="unknown document document-1"):
        execute_calls([proposed_call()], {}, Calculator(), CONFIG)


def test_count_outcomes_has_every_outcome():
    executed = [executed_call(), executed_call(), executed_call(outcome=Outcome.EMPTY)]
    assert count_outcomes(executed) == {
        "ok": 2,
        "rejected": 0,
        "failed": 0,
        "timed_out": 0,
        "empty": 1,
    }
