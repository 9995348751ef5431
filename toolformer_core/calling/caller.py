"""Calling a tool: bounded in time and size, retried if it is unreachable, each call made once.

A bad call is data: it gets an outcome and a reason. An outage is an exception: a tool that stays
unreachable, or does not answer several calls in a row, raises, so that a shard fails loudly
instead of emptying the data set.
"""

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Protocol

from cachetools import LRUCache
from pebble import ProcessExpired
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from toolformer_core.calling.circuit_breaker import CircuitBreaker
from toolformer_core.config.pipeline import ExecuteConfig
from toolformer_core.errors import ConfigError, ToolError, ToolInputRejected, TransientToolError
from toolformer_core.records import Outcome
from toolformer_core.tools.base import BatchTool, CallContext, Tool, visible_context
from toolformer_core.tools.isolation import (
    Answers,
    BuildTool,
    Calls,
    Given,
    ToolProcesses,
    call_here,
    died_because,
)

MAX_REASON_CHARS = 300
BATCH_SIZE = 16
MIN_CALLS_OF_AN_OUTAGE = 3
_REMEMBERED_CALLS = 100_000
_REPEATABLE = (Outcome.OK, Outcome.EMPTY, Outcome.REJECTED)
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.5, 30.0


class CallAnswer(NamedTuple):
    """How one call ended; `result` is empty unless the outcome is ok."""

    outcome: Outcome
    reason: str
    result: str
    latency_seconds: float


class Caller(Protocol):
    """What answers the calls of one tool: the tool itself, or a record of its answers."""

    @property
    def tool(self) -> Tool:
        """The tool that is called."""

    def answers(self, calls: Calls) -> list[CallAnswer]:
        """One answer per call.

        Raises: TransientToolError for an outage.
        """


class ToolCaller:
    """Calls a tool, at most `max_calls` at a time; `build` lets it run in other processes."""

    def __init__(
        self,
        tool: Tool,
        config: ExecuteConfig,
        *,
        build: BuildTool | None = None,
        max_calls: int = 1,
        remembers: bool = True,
    ) -> None:
        """`remembers`: what was answered once is not asked for again."""
        self.tool = tool
        self._config = config
        self._timeout_seconds = config.of_tool(tool.name).timeout_seconds
        self._breaker = CircuitBreaker(tool.name, config.max_failures_in_a_row)
        self._threads = ThreadPoolExecutor(max_calls, thread_name_prefix=f"call-{tool.name}")
        self._known: LRUCache[tuple[str, CallContext], CallAnswer] = LRUCache(
            _REMEMBERED_CALLS if remembers else 0
        )
        self._lock = threading.Lock()
        self._processes = (
            ToolProcesses(tool, build, max_calls, config.max_memory_mb) if build else None
        )

    def answers(self, calls: Calls) -> list[CallAnswer]:
        """One answer per call, in order; equal ones are made once.

        Raises: TransientToolError for an outage; ConfigError for a wrong setting of the tool.
        """
        keys = [(argument, visible_context(self.tool, context)) for argument, context in calls]
        with self._lock:
            found = {key: self._known[key] for key in keys if key in self._known}
        new = [key for key in dict.fromkeys(keys) if key not in found]
        size = BATCH_SIZE if isinstance(self.tool, BatchTool) else 1
        batches = [new[start : start + size] for start in range(0, len(new), size)]
        for batch, answered in zip(batches, self._threads.map(self._answer, batches), strict=True):
            found.update(zip(batch, answered, strict=True))
        self._check_answered([found[key] for key in new])
        with self._lock:
            for key, answer in found.items():
                if answer.outcome in _REPEATABLE and self._known.maxsize:
                    self._known[key] = answer
        return [found[key] for key in keys]

    def _check_answered(self, answers: list[CallAnswer]) -> None:
        """Raises: TransientToolError if several calls were made and all of them timed out."""
        num_late = sum(answer.outcome is Outcome.TIMED_OUT for answer in answers)
        if len(answers) >= MIN_CALLS_OF_AN_OUTAGE and num_late == len(answers):
            raise TransientToolError(
                f"{self.tool.name} answered none of {num_late} calls within "
                f"{self._timeout_seconds:g} s; see to it, or raise execute.timeout_seconds"
            )

    def close(self) -> None:
        """End what runs beside this process."""
        self._threads.shutdown(cancel_futures=True)
        if self._processes:
            self._processes.close()

    def _answer(self, calls: Calls) -> list[CallAnswer]:
        """The answers to some calls: too long arguments apart, the others together."""
        longest = self._config.max_argument_chars
        short = [call for call in calls if len(call[0]) <= longest]
        answered = iter(self._answer_short(short) if short else ())
        return [
            next(answered)
            if len(argument) <= longest
            else _ended(
                Outcome.REJECTED, f"argument of {len(argument)} characters; at most {longest}"
            )
            for argument, _ in calls
        ]

    def _answer_short(self, calls: Calls) -> list[CallAnswer]:
        retrying = Retrying(
            stop=stop_after_attempt(self._config.outage_retries + 1),
            wait=wait_exponential_jitter(
                multiplier=_FIRST_WAIT_SECONDS,
                max=_LONGEST_WAIT_SECONDS,
                jitter=_FIRST_WAIT_SECONDS,
            ),
            retry=retry_if_exception_type(TransientToolError),
            reraise=True,
        )
        return retrying(self._attempt, calls)

    def _attempt(self, calls: Calls) -> list[CallAnswer]:
        """The answers of one try; if a batch fails as a whole, its calls are tried one by one.

        Raises: TransientToolError for an outage; ConfigError, which no other argument would mend.
        """
        self._breaker.check()
        started = time.perf_counter()
        answers, error = self._call(calls)
        latency = (time.perf_counter() - started) / len(calls)
        if error is None:
            self._breaker.count(None)
            return [self._ended_with(answer, latency) for answer in answers]
        if isinstance(error, ConfigError):
            raise error
        if len(calls) > 1 and not isinstance(error, TransientToolError):
            return [answer for call in calls for answer in self._attempt([call])]
        # Of pebble's errors too: that of a worker that died is an OSError, as a time-out is.
        self._breaker.count(error if isinstance(error, TransientToolError | OSError) else None)
        return [self._failed(error, latency)]

    def _call(self, calls: Calls) -> tuple[Answers, Exception | None]:
        """The answers or the error; a worker that died is tried once more.

        It may have died of what earlier calls had left behind.
        """
        limit = self._timeout_seconds * len(calls)
        if self._processes is None:
            return _call_in_thread(self.tool, calls, limit)
        for _ in range(2):
            try:
                return self._processes.call(calls, limit)
            except TransientToolError as outage:
                return [], outage
            except ProcessExpired as error:
                death = error
        return [], death

    def _failed(self, error: Exception, latency: float) -> CallAnswer:
        """The outcome of an error.

        Raises: TransientToolError for an outage, also if it is one time-out too many.
        """
        if isinstance(error, TransientToolError):
            raise error
        if isinstance(error, TimeoutError):
            self._breaker.check()
            reason = f"no answer within {self._timeout_seconds:g} s"
            return _ended(Outcome.TIMED_OUT, reason, latency)
        if isinstance(error, ProcessExpired):
            self._breaker.check()
            return _ended(Outcome.FAILED, died_because(error.exitcode), latency)
        assert isinstance(error, ToolError)
        return self._ended_with(error, latency)

    def _ended_with(self, answer: str | ToolError, latency: float) -> CallAnswer:
        """The outcome of what the tool answered."""
        if isinstance(answer, ToolError):
            is_rejected = isinstance(answer, ToolInputRejected)
            outcome = Outcome.REJECTED if is_rejected else Outcome.FAILED
            return _ended(outcome, str(answer), latency)
        longest = self._config.max_result_chars
        text = _storable(answer).strip()
        result = text[:longest].rstrip()
        if not result:
            return _ended(Outcome.EMPTY, "", latency)
        reason = f"cut from {len(text)} characters" if len(text) > longest else ""
        return CallAnswer(Outcome.OK, reason, result, latency)


def _ended(outcome: Outcome, reason: str, latency: float = 0.0) -> CallAnswer:
    return CallAnswer(outcome, _storable(reason[:MAX_REASON_CHARS]), "", latency)


def _storable(text: str) -> str:
    """The text without lone surrogates, which no file takes."""
    return text.encode("utf-8", "replace").decode()


def _call_in_thread(tool: Tool, calls: Calls, limit: float) -> Given:
    """The answers or the error of a thread of its own.

    A thread cannot be killed: a call that hangs goes on in the background until the process ends.
    Only tools that bound themselves are called so.
    Raises: what the tool raised, if it is no Exception.
    """
    given: Future[Given] = Future()

    def work() -> None:
        try:
            given.set_result(call_here(tool, calls))
        except BaseException as error:  # not handled here: handed to the thread that waits
            given.set_exception(error)

    threading.Thread(target=work, name=f"tool-{tool.name}", daemon=True).start()
    try:
        return given.result(limit)
    except TimeoutError:
        return Given([], TimeoutError())


class ForgivingCaller:
    """For inference: a tool that is away fails the call, not those who wait for other rows."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    @property
    def tool(self) -> Tool:
        """As in `Caller`."""
        return self._caller.tool

    def answers(self, calls: Calls) -> list[CallAnswer]:
        """One answer per call; an outage, or a wrong setting, is the outcome failed."""
        started = time.perf_counter()
        try:
            return self._caller.answers(calls)
        except (TransientToolError, ConfigError, MemoryError) as error:
            seconds = time.perf_counter() - started
            return [_ended(Outcome.FAILED, str(error), seconds) for _ in calls]


def run_call(tool: Tool, argument: str, context: CallContext, config: ExecuteConfig) -> CallAnswer:
    """How one call of a tool ends, in this process.

    Raises: TransientToolError for an outage.
    """
    caller = ToolCaller(tool, config)
    try:
        return caller.answers([(argument, context)])[0]
    finally:
        caller.close()
