"""Recording what tools answered, and answering from it."""

import dataclasses

import pytest

from tests.support.scripted_tool import ScriptedTool
from toolformer_core.calling.caller import ToolCaller
from toolformer_core.calling.cassette import (
    RecordedCall,
    RecordedTool,
    ReplayCaller,
    read_descriptions,
    write_cassette,
)
from toolformer_core.config.pipeline import ExecuteConfig
from toolformer_core.errors import ConfigError, ToolInputRejected
from toolformer_core.records import Outcome
from toolformer_core.tools.base import NO_DOCUMENT, AnyPlace, CallContext
from toolformer_core.tools.calculator import Calculator
from toolformer_core.tools.described import describe

CONFIG = ExecuteConfig(max_result_chars=8)
HERE = CallContext(document_id="d", url="https://e.org", date="2020-01-01")
CALLS = [("x", HERE), ("bad", HERE), ("", HERE), ("long", HERE), ("x", NO_DOCUMENT)]


@pytest.fixture
def tool():
    return ScriptedTool(
        {"x": '[C(1) -> "\n2', "bad": ToolInputRejected("no"), "": "", "long": "1" * 99}
    )


def recorded(tool, calls=CALLS):
    answers = ToolCaller(tool, CONFIG).answers(calls)
    for (argument, context), answer in zip(calls, answers, strict=True):
        yield RecordedCall(
            tool=tool.name,
            tool_version=tool.version,
            argument=argument,
            **dataclasses.asdict(context),
            **answer._asdict(),
        )


def replayed(tool, path):
    return ReplayCaller(RecordedTool(read_descriptions(path)[tool.name], AnyPlace()), path)


def test_cassette_gives_every_answer_back(tool, tmp_path):
    path = tmp_path / "cassette.parquet"
    assert write_cassette(recorded(tool), [describe(tool)], path) == len(CALLS)
    expected = ToolCaller(tool, CONFIG).answers(CALLS)
    found = replayed(tool, path).answers(CALLS)
    assert [answer[:3] for answer in found] == [answer[:3] for answer in expected]
    assert {answer.outcome for answer in found} == {Outcome.OK, Outcome.REJECTED, Outcome.EMPTY}


def test_cassette_describes_the_tool(tmp_path):
    path = tmp_path / "cassette.parquet"
    write_cassette([], [describe(Calculator())], path)
    found = RecordedTool(read_descriptions(path)["Calculator"], AnyPlace())
    assert describe(found) == describe(Calculator())
    with pytest.raises(ConfigError, match="cannot be called"):
        found.call("1 + 1", NO_DOCUMENT)


def test_cassette_is_the_same_whatever_the_order_and_repeats(tool, tmp_path):
    calls = list(recorded(tool))
    for name, order in (("a", calls), ("b", [*calls[::-1], *calls])):
        stable = [dataclasses.replace(call, latency_seconds=0.0) for call in order]
        write_cassette(stable, [describe(tool)], tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_replay_answers_a_call_that_the_tool_cannot_tell_from_a_recorded_one(tmp_path):
    tool = ScriptedTool({"x": "1"})
    tool.context_fields = ("date",)
    path = tmp_path / "cassette.parquet"
    write_cassette(recorded(tool, [("x", HERE)]), [describe(tool)], path)
    elsewhere = dataclasses.replace(HERE, document_id="other")
    [answer] = replayed(tool, path).answers([("x", elsewhere)])
    assert answer.result == "1"
    with pytest.raises(ConfigError, match="no answer"):
        replayed(tool, path).answers([("x", dataclasses.replace(HERE, date="2021-01-01"))])


def test_replay_call_that_is_not_recorded_is_refused(tool, tmp_path):
    path = tmp_path / "cassette.parquet"
    write_cassette(recorded(tool), [describe(tool)], path)
    with pytest.raises(ConfigError, match="no answer to Scripted"):
        replayed(tool, path).answers([("new", HERE)])


def test_cassette_other_files_are_refused(tmp_path):
    (tmp_path / "text").write_text("no Parquet")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_descriptions(tmp_path / "text")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_descriptions(tmp_path / "missing")
