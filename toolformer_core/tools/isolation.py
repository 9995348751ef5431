"""Calls in a process of their own, which a time-out ends and a memory limit holds (pebble).

A thread cannot be killed and native code cannot be interrupted. A worker process builds the tool
once and answers until it is killed; the next call gets a new one.
"""

import functools
import multiprocessing
import os
import resource
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from pebble import ProcessPool

from toolformer_core.errors import ToolError
from toolformer_core.tools.base import BatchTool, CallContext, Tool

BuildTool = Callable[[], Tool]
"""Builds a tool anew; it is sent to the worker, so it must pickle."""

Calls = Sequence[tuple[str, CallContext]]
Answers = list[str | ToolError]

_OUT_OF_MEMORY = 77  # exit code of a worker; not one that Python or a shell uses


class ToolProcesses:
    """Worker processes of one tool."""

    def __init__(self, build: BuildTool, *, max_workers: int, max_memory_mb: int) -> None:
        self._build = build
        self._pool = ProcessPool(
            max_workers=max_workers,
            initializer=_start_worker,
            initargs=(max_memory_mb,),
            # Not fork: threads of torch and Prefect hold locks that a forked child would wait for.
            context=multiprocessing.get_context("spawn"),
        )

    def submit(self, calls: Calls, timeout_seconds: float) -> Future[Answers]:
        """The answers to come; the worker is killed if they do not come in time."""
        future: Future[Answers] = self._pool.schedule(
            _answer_in_worker, args=(self._build, list(calls)), timeout=timeout_seconds
        )
        return future

    def close(self) -> None:
        """End all workers."""
        self._pool.stop()  # type: ignore[no-untyped-call]  # pebble leaves its types out here
        self._pool.join()


def answer_calls(tool: Tool, calls: Calls) -> Answers:
    """One answer per call; what a single call raises is raised."""
    if isinstance(tool, BatchTool):
        return tool.call_batch(calls)
    return [tool.call(argument, context) for argument, context in calls]


def _start_worker(max_memory_mb: int) -> None:
    """Let the worker's data grow no further than the limit, and itself not outlive its parent."""
    limit = max_memory_mb * 1024 * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@functools.lru_cache(maxsize=1)
def _tool(build: BuildTool) -> Tool:
    return build()


def _answer_in_worker(build: BuildTool, calls: Calls) -> Answers:
    """The answers; a worker that has run out of memory is of no more use and ends itself."""
    try:
        return answer_calls(_tool(build), calls)
    except MemoryError:
        os._exit(_OUT_OF_MEMORY)


def died_because(exit_code: int | None) -> str:
    """Why a worker ended, in words."""
    if exit_code == _OUT_OF_MEMORY:
        return "used more memory than it may"
    if exit_code is not None and exit_code < 0:
        return f"process was ended by signal {-exit_code}"
    return f"process ended with exit code {exit_code}"
