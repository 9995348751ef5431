"""The execute stage on a scripted tool: who is called, in which order, and what is an outage."""

import pytest

from tests.support.builders import document, executed_call, proposed_call
from tests.support.scripted_tool import ScriptedTool
from toolformer_core.calling.caller import ToolCaller
from toolformer_core.config.pipeline import ExecuteConfig
from toolformer_core.errors import DataError, TransientToolError
from toolformer_core.execute import count_outcomes, execute_calls
from toolformer_core.records import DropReason, Outcome
from toolformer_core.tools.base import context_of
from toolformer_core.tools.calculator import Calculator

CONFIG = ExecuteConfig(outage_retries=0)


def test_execute_calls_right_call_gives_its_record():
    proposed = [proposed_call()]
    [executed] = execute_calls(
        proposed, {"document-1": document()}, ToolCaller(Calculator(), CONFIG)
    )
    assert executed == executed_call(
        tool_version=Calculator.version, latency_seconds=executed.latency_seconds
    )


def test_execute_calls_dropped_call_is_left_out():
    dropped = [proposed_call(argument="no", drop_reason=reason) for reason in DropReason]
    tool = ScriptedTool({})
    assert execute_calls(dropped, {}, ToolCaller(tool, CONFIG)) == []
    assert tool.calls == []


def test_execute_calls_equal_calls_run_once_in_order():
    documents = {name: document(document_id=name) for name in ("a", "b")}
    proposed = [
        proposed_call(candidate_id=f"{name}{offset}", document_id=name, char_offset=offset)
        for name in documents
        for offset in (1, 2)
    ]
    tool = ScriptedTool({"34 + 57": "91"})
    executed = execute_calls(proposed, documents, ToolCaller(tool, CONFIG))
    assert [call.candidate_id for call in executed] == ["a1", "a2", "b1", "b2"]
    assert {call.tool_version for call in executed} == {"7"}
    assert tool.calls == [("34 + 57", context_of(documents[name])) for name in documents]


def test_execute_calls_outage_leaves_the_stage():
    tool = ScriptedTool({"34 + 57": TransientToolError("down")})
    with pytest.raises(TransientToolError):
        execute_calls([proposed_call()], {"document-1": document()}, ToolCaller(tool, CONFIG))


def test_execute_calls_unknown_document_raises():
    with pytest.raises(DataError, match="unknown document document-1"):
        execute_calls([proposed_call()], {}, ToolCaller(Calculator(), CONFIG))


def test_count_outcomes_has_every_outcome():
    executed = [executed_call(), executed_call(), executed_call(outcome=Outcome.EMPTY)]
    assert count_outcomes(executed) == {
        "ok": 2,
        "rejected": 0,
        "failed": 0,
        "timed_out": 0,
        "empty": 1,
    }
