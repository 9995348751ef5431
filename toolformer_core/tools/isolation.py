"""Calls in a process of their own, which a time-out ends and a memory limit holds (pebble).

A thread cannot be killed and native code cannot be interrupted. A worker process builds the tool
when it starts, and answers until it is killed; the next call gets a new one. Programs that a tool
starts are not killed with it; they see the end of their input.
"""

import logging
import multiprocessing
import os
import resource
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple

from pebble import ProcessExpired, ProcessPool

from toolformer_core.errors import ConfigError, ToolError, ToolInputRejected, TransientToolError
from toolformer_core.tools.base import BatchTool, CallContext, Tool

BuildTool = Callable[[], Tool]
"""Builds a tool anew; it is sent to the worker, so it must pickle."""

Calls = Sequence[tuple[str, CallContext]]
Answers = list[str | ToolError]

START_SECONDS = 120.0
"""A worker must have built its tool by then; this is no part of a call's time."""

_OUT_OF_MEMORY = 77  # exit code of a worker; not one that Python or a shell uses
_KNOWN_ERRORS = (ToolInputRejected, TransientToolError, ConfigError, TimeoutError, ToolError)
_LOGGER = logging.getLogger(__name__)


class Given(NamedTuple):
    """The answers to some calls, or what was raised in their place."""

    answers: Answers
    error: Exception | None


class ToolProcesses:
    """Worker processes of one tool."""

    def __init__(self, tool: Tool, build: BuildTool, max_workers: int, max_memory_mb: int) -> None:
        self._name = tool.name
        self._max_workers = max_workers
        self._initargs = (build, tool.version, max_memory_mb)
        self._pool = self._new_pool()
        self._lock = threading.Lock()

    def _new_pool(self) -> ProcessPool:
        return ProcessPool(
            max_workers=self._max_workers,
            initializer=_start_worker,
            initargs=self._initargs,
            # Not fork: threads of torch and Prefect hold locks that a forked child would wait for.
            context=multiprocessing.get_context("spawn"),
        )

    def call(self, calls: Calls, timeout_seconds: float) -> Given:
        """The answers; the worker is killed if they do not come in time.

        Raises: ProcessExpired if the worker dies; TransientToolError if none can be started.
        """
        try:
            future = self._submit(calls, timeout_seconds)
            error = future.exception(timeout_seconds + START_SECONDS)
        except (RuntimeError, TimeoutError) as failure:
            raise self._not_started() from failure
        if isinstance(error, TimeoutError):
            return Given([], TimeoutError())
        if isinstance(error, ProcessExpired):
            raise error
        if error is not None:  # the pool broke: a worker cannot even be started
            raise self._not_started() from error
        return future.result()

    def _submit(self, calls: Calls, timeout_seconds: float) -> "Future[Given]":
        with self._lock:
            if not self._pool.active:
                self._pool = self._new_pool()
            future: Future[Given] = self._pool.schedule(
                _answer_in_worker, args=(list(calls),), timeout=timeout_seconds
            )
        return future

    def _not_started(self) -> TransientToolError:
        return TransientToolError(
            f"{self._name}: no process could be started for it; is the script that runs guarded "
            'by if __name__ == "__main__"?'
        )

    def close(self) -> None:
        """End all workers."""
        self._pool.stop()  # type: ignore[no-untyped-call]  # pebble leaves its types out here
        self._pool.join()


def call_here(tool: Tool, calls: Calls) -> Given:
    """The answers of a tool, or what it raised as an error that any process can read.

    Raises: what is no Exception, such as KeyboardInterrupt; MemoryError.
    """
    try:
        answers = (
            tool.call_batch(calls)
            if isinstance(tool, BatchTool)
            else [tool.call(argument, context) for argument, context in calls]
        )
    except MemoryError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception):
            raise
        return Given([], _plain(error, tool.name, calls))
    return Given([_checked(answer, tool.name) for answer in answers], None)


def _plain(error: Exception, name: str, calls: Calls) -> Exception:
    """The error as one of a few that hold a text and nothing else.

    A user's own may not survive the way to another process. Choice: an OSError is an outage (a
    refused connection is one); recorded as a failed call, it would quietly empty the data set.
    """
    for kind in _KNOWN_ERRORS:
        if isinstance(error, kind):
            return kind(str(error))
    if isinstance(error, OSError):
        return TransientToolError(f"{name}: {type(error).__name__}: {error}")
    _LOGGER.warning("%s(%r) raised %r", name, calls[0][0], error)
    return ToolError(type(error).__name__)  # its message may differ between runs


def _checked(answer: str | ToolError, name: str) -> str | ToolError:
    """The answer as text, or an error that holds a text."""
    if isinstance(answer, ToolError):
        kind = ToolInputRejected if isinstance(answer, ToolInputRejected) else ToolError
        return kind(str(answer))
    if isinstance(answer, str):
        return str(answer)
    return ToolError(f"{name} returned {type(answer).__name__}, expected text")


class _Worker(NamedTuple):
    """What a worker process serves: its tool, or why there is none."""

    tool: Tool | None
    error: str


_worker = _Worker(None, "not started")


def _start_worker(build: BuildTool, version: str, max_memory_mb: int) -> None:
    """Build the tool; let the process's data grow no further than the limit."""
    global _worker  # pebble hands nothing from here to the calls
    threading.Thread(target=_end_with_parent, daemon=True).start()
    limit = max_memory_mb * 1024 * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    try:
        tool = build()
    except (ConfigError, ImportError, MemoryError, OSError) as error:
        _worker = _Worker(None, f"cannot be built in a process of its own: {error}")
        return
    is_same = tool.version == version
    changed = "changed while the run went on; start the run again"
    _worker = _Worker(tool if is_same else None, f"{tool.name} {changed}")


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _answer_in_worker(calls: Calls) -> Given:
    """The answers; a worker that has run out of memory is of no more use and ends itself."""
    if _worker.tool is None:
        return Given([], ConfigError(_worker.error))
    try:
        return call_here(_worker.tool, calls)
    except MemoryError:
        os._exit(_OUT_OF_MEMORY)


def died_because(exit_code: int | None) -> str:
    """Why a worker ended, in words."""
    if exit_code == _OUT_OF_MEMORY:
        return "used more memory than it may"
    if exit_code is not None and exit_code < 0:
        return f"process was ended by signal {-exit_code}"
    return f"process ended with exit code {exit_code}"
