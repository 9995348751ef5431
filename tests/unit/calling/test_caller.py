"""Calls of a scripted tool and of real processes: every outcome, and what is an outage instead."""

import functools
import multiprocessing
import os
import threading
import time

import pytest

from tests.support import faulty_tool
from tests.support.scripted_tool import ScriptedTool
from toolformer_core.calling import caller as calling
from toolformer_core.calling.caller import ToolCaller, run_call
from toolformer_core.calling.circuit_breaker import COOL_DOWN_SECONDS, CircuitBreaker
from toolformer_core.config.pipeline import ExecuteConfig
from toolformer_core.config.tools import PythonTool
from toolformer_core.errors import ConfigError, ToolError, ToolInputRejected, TransientToolError
from toolformer_core.records import Outcome
from toolformer_core.tools.base import NO_DOCUMENT, CallContext
from toolformer_core.tools.python_function import PythonFunction

CONFIG = ExecuteConfig(
    timeout_seconds=5, max_argument_chars=40, max_result_chars=12, outage_retries=0
)


class Unforeseen(Exception):
    """What only the tool knows of."""


def run(answer, config=CONFIG):
    return run_call(ScriptedTool({"x": answer}), "x", NO_DOCUMENT, config)


def test_run_call_answer_is_ok_and_stripped():
    outcome, reason, result, latency_seconds = run("  one\ntwo \n")
    assert (outcome, reason, result) == (Outcome.OK, "", "one\ntwo")
    assert latency_seconds >= 0


def test_run_call_long_result_is_cut():
    assert run("0123456789 123456")[:3] == (
        Outcome.OK,
        "cut from 17 characters",
        "0123456789 1",
    )
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
        Unforeseen("at 0x1"),
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


def test_run_call_network_error_is_an_outage():
    with pytest.raises(TransientToolError, match="Scripted: ConnectionRefusedError: refused"):
        run(ConnectionRefusedError("refused"))


def test_run_call_time_out_of_the_tool_itself_is_timed_out():
    assert run(TimeoutError("read")).outcome is Outcome.TIMED_OUT


def test_run_call_interruption_is_raised_as_it_is():
    with pytest.raises(KeyboardInterrupt):
        run(KeyboardInterrupt())


def flaky(num_outages):
    """A tool that is down so many times."""
    left = iter([TransientToolError("down")] * num_outages)

    def answer():
        error = next(left, None)
        if error:
            raise error
        return "up"

    return ScriptedTool({"x": answer})


@pytest.fixture
def no_waiting(monkeypatch):
    monkeypatch.setattr(calling, "_FIRST_WAIT_SECONDS", 0.0)
    monkeypatch.setattr(calling, "_LONGEST_WAIT_SECONDS", 0.0)


def test_caller_short_outage_is_waited_out(no_waiting):
    tool = flaky(3)
    config = CONFIG.model_copy(update={"outage_retries": 3})
    assert run_call(tool, "x", NO_DOCUMENT, config).result == "up"
    assert len(tool.calls) == 4


def test_caller_lasting_outage_is_raised_after_all_tries(no_waiting):
    tool = flaky(99)
    config = CONFIG.model_copy(update={"outage_retries": 3})
    with pytest.raises(TransientToolError, match="down"):
        run_call(tool, "x", NO_DOCUMENT, config)
    assert len(tool.calls) == 4


def test_caller_bad_call_is_not_retried(no_waiting):
    tool = ScriptedTool({"x": ToolInputRejected("no")})
    run_call(tool, "x", NO_DOCUMENT, CONFIG.model_copy(update={"outage_retries": 3}))
    assert len(tool.calls) == 1


def test_caller_equal_calls_are_made_once_over_batches():
    tool = ScriptedTool({"x": "1", "y": ToolInputRejected("no")})
    caller = ToolCaller(tool, CONFIG)
    first = caller.answers([("x", NO_DOCUMENT), ("y", NO_DOCUMENT), ("x", NO_DOCUMENT)])
    assert [answer.outcome for answer in first] == ["ok", "rejected", "ok"]
    assert caller.answers([("y", NO_DOCUMENT), ("x", NO_DOCUMENT)]) == [first[1], first[0]]
    assert [argument for argument, _ in tool.calls] == ["x", "y"]


def test_caller_shows_only_what_the_tool_depends_on():
    tool = ScriptedTool({"x": "1"})
    tool.context_fields = ("date",)
    contexts = [CallContext(document_id=name, url="u", date="2020-01-01") for name in "ab"]
    ToolCaller(tool, CONFIG).answers([("x", context) for context in contexts])
    assert tool.calls == [("x", CallContext(document_id="", url=None, date="2020-01-01"))]


def test_caller_makes_no_more_calls_at_a_time_than_it_may():
    running, most, lock = 0, 0, threading.Lock()
    meeting = threading.Barrier(3)

    def answer():
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        meeting.wait(5)
        with lock:
            running -= 1
        return "1"

    tool = ScriptedTool({str(k): answer for k in range(9)})
    caller = ToolCaller(tool, CONFIG, max_calls=3)
    answers = caller.answers([(str(k), NO_DOCUMENT) for k in range(9)])
    assert most == 3
    assert {answer.outcome for answer in answers} == {Outcome.OK}


def test_caller_tool_that_hangs_fails_the_shard_instead_of_emptying_it():
    released = threading.Event()
    config = CONFIG.model_copy(update={"timeout_seconds": 0.02, "max_failures_in_a_row": 3})
    tool = ScriptedTool({str(k): released.wait for k in range(50)})
    try:
        with pytest.raises(TransientToolError, match="did not answer 3 calls in a row"):
            ToolCaller(tool, config).answers([(str(k), NO_DOCUMENT) for k in range(50)])
    finally:
        released.set()
    assert len(tool.calls) == 3


@pytest.fixture
def hanging():
    """Calls a tool that never answers."""
    released = threading.Event()
    config = CONFIG.model_copy(update={"timeout_seconds": 0.02})
    tool = ScriptedTool({str(k): released.wait for k in range(9)})
    yield ToolCaller(tool, config)
    released.set()


def test_caller_few_calls_that_time_out_are_data(hanging):
    answers = hanging.answers([(key, NO_DOCUMENT) for key in "12"])
    assert [answer.outcome for answer in answers] == [Outcome.TIMED_OUT] * 2


def test_caller_several_calls_of_which_none_is_answered_are_an_outage(hanging):
    with pytest.raises(TransientToolError, match=r"answered none of 3 calls within 0\.02 s"):
        hanging.answers([(key, NO_DOCUMENT) for key in "123"])


def test_breaker_opens_closes_after_a_while_and_forgets_with_an_answer(monkeypatch):
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    breaker = CircuitBreaker("Tool", 2)
    breaker.count(TimeoutError())
    breaker.check()
    breaker.count(TimeoutError())
    with pytest.raises(TransientToolError):
        breaker.check()
    now += COOL_DOWN_SECONDS
    breaker.check()
    breaker.count(TimeoutError())
    with pytest.raises(TransientToolError):
        breaker.check()
    now += COOL_DOWN_SECONDS
    breaker.count(None)
    breaker.count(TimeoutError())
    breaker.check()


def test_caller_that_remembers_nothing_asks_again():
    tool = ScriptedTool({"x": "1"})
    caller = ToolCaller(tool, CONFIG, remembers=False)
    for _ in range(2):
        assert caller.answers([("x", NO_DOCUMENT)])[0].result == "1"
    assert len(tool.calls) == 2


class Batched(ScriptedTool):
    """Answers many calls at once, or none."""

    def call_batch(self, calls):
        if any(argument == "poison" for argument, _ in calls):
            raise ValueError
        return [self.table[argument] for argument, _ in calls]


def test_caller_batch_answers_each_call():
    tool = Batched({str(k): str(k) for k in range(40)} | {"bad": ToolInputRejected("no")})
    keys = [*map(str, range(40)), "bad"]
    answers = ToolCaller(tool, CONFIG).answers([(key, NO_DOCUMENT) for key in keys])
    assert [answer.result for answer in answers[:-1]] == keys[:-1]
    assert answers[-1][:2] == (Outcome.REJECTED, "no")


def test_caller_one_call_that_fails_a_batch_fails_alone():
    tool = Batched({"a": "1", "b": "2"})
    calls = [(key, NO_DOCUMENT) for key in ("a", "poison", "b")]
    answers = ToolCaller(tool, CONFIG).answers(calls)
    assert [answer.outcome for answer in answers] == ["ok", "failed", "ok"]


FAULTY = PythonTool(function=f"{faulty_tool.__name__}:do")


@pytest.fixture(scope="module")
def isolated():
    config = ExecuteConfig(
        timeout_seconds=2, max_memory_mb=300, outage_retries=0, max_failures_in_a_row=10
    )
    build = functools.partial(PythonFunction, FAULTY)
    caller = ToolCaller(build(), config, build=build, max_calls=1)
    yield caller
    caller.close()


@pytest.mark.parametrize(
    ("what", "outcome", "reason"),
    [
        ("loop", Outcome.TIMED_OUT, "no answer within 2 s"),
        ("native", Outcome.TIMED_OUT, "no answer within 2 s"),
        ("kill", Outcome.FAILED, "process was ended by signal 9"),
        ("crash", Outcome.FAILED, "process was ended by signal 11"),
        ("exit", Outcome.FAILED, "process ended with exit code 3"),
        ("leak", Outcome.FAILED, "used more memory than it may"),
        ("bytes", Outcome.FAILED, "do returned bytes, expected text"),
        ("raise", Outcome.FAILED, "Private"),
        ("raise2", Outcome.FAILED, "NotForPickle"),
        ("big", Outcome.OK, "cut from 10000000 characters"),
    ],
)
def test_isolated_fault_is_an_outcome_and_the_next_call_is_answered(
    isolated, what, outcome, reason
):
    [answer] = isolated.answers([(what, NO_DOCUMENT)])
    assert (answer.outcome, answer.reason) == (outcome, reason)
    [after] = isolated.answers([(f"pid after {what}", NO_DOCUMENT)])
    assert after.outcome is Outcome.OK


def test_isolated_time_out_ends_the_process(isolated):
    [before] = isolated.answers([("pid before", NO_DOCUMENT)])
    isolated.answers([("loop again", NO_DOCUMENT)])
    [after] = isolated.answers([("pid afterwards", NO_DOCUMENT)])
    assert not faulty_tool.is_alive(int(before.result))
    assert faulty_tool.is_alive(int(after.result))


def test_isolated_worker_that_earlier_calls_filled_is_replaced(isolated):
    for size in (100, 101):
        [answer] = isolated.answers([(f"keep {size}", NO_DOCUMENT)])
        assert answer.result == "kept"
    [answer] = isolated.answers([("keep 102", NO_DOCUMENT)])  # the third does not fit beside them
    assert answer.result == "kept"


def test_run_call_wrong_setting_of_the_tool_is_raised():
    with pytest.raises(ConfigError, match="no key"):
        run(ConfigError("no key"))


def test_run_call_result_that_cannot_be_stored_is_cleaned():
    assert run("a\ud800b").result == "a?b"
    assert run(ToolError("a\ud800b")).reason == "a?b"


class SlowToBuild(ScriptedTool):
    """Takes longer to build than a call may take; tells how often it was built in its process."""

    num_built = 0

    def __init__(self):
        super().__init__({})
        time.sleep(1.5)
        SlowToBuild.num_built += 1

    def call(self, argument, context):
        return str(self.num_built)


def test_isolated_tool_is_built_once_and_not_in_the_time_of_a_call():
    config = CONFIG.model_copy(update={"timeout_seconds": 1})
    caller = ToolCaller(SlowToBuild(), config, build=SlowToBuild)
    answers = [caller.answers([(str(k), NO_DOCUMENT)])[0] for k in range(3)]
    caller.close()
    assert [answer.result for answer in answers] == ["1", "1", "1"]


class Changing(ScriptedTool):
    """Another version in every process."""

    def __init__(self):
        super().__init__({"x": "1"})
        self.version = str(os.getpid())


def test_isolated_tool_that_is_another_in_its_process_is_refused():
    caller = ToolCaller(Changing(), CONFIG, build=Changing)
    with pytest.raises(ConfigError, match="changed while the run went on; start the run again"):
        caller.answers([("x", NO_DOCUMENT)])
    caller.close()


class Unbuildable(ScriptedTool):
    """Can be built in one process only."""

    def __init__(self):
        super().__init__({"x": "1"})
        if multiprocessing.parent_process():
            raise ImportError("no module here")


def test_isolated_tool_that_cannot_be_built_is_refused():
    caller = ToolCaller(Unbuildable(), CONFIG, build=Unbuildable)
    with pytest.raises(ConfigError, match="no module here"):
        caller.answers([("x", NO_DOCUMENT)])
    caller.close()


def crash():
    """No tool."""
    os._exit(5)


def test_isolated_process_that_cannot_start_is_an_outage():
    caller = ToolCaller(ScriptedTool({}), CONFIG, build=crash)
    for _ in range(2):
        with pytest.raises(TransientToolError, match="no process could be started"):
            caller.answers([("x", NO_DOCUMENT)])
    caller.close()
