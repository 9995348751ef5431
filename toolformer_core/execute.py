"""Step 2, executing API calls (paper, section 2, "Executing API Calls").

A bad call is data: it is recorded with its outcome and the reason. An outage is an exception: it
leaves the stage, so that no data set is quietly emptied.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import NamedTuple

from toolformer_core.config import ExecuteConfig
from toolformer_core.errors import DataError, ToolError, ToolInputRejected, TransientToolError
from toolformer_core.records import Document, ExecutedCall, Outcome, ProposedCall
from toolformer_core.tools.base import CallContext, Tool, context_of

STAGE_VERSION = 2

_LOGGER = logging.getLogger(__name__)

MAX_REASON_CHARS = 300

_TOOL_FAULTS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What a tool's own code raises on an argument that it cannot cope with."""


class CallAnswer(NamedTuple):
    """How one call ended; `result` is empty unless the outcome is ok."""

    outcome: Outcome
    reason: str
    result: str
    latency_seconds: float


def execute_calls(
    proposed: Sequence[ProposedCall],
    documents: Mapping[str, Document],
    tool: Tool,
    config: ExecuteConfig,
) -> list[ExecutedCall]:
    """The proposed calls that were not dropped, each with its outcome; equal ones run once.

    Raises: TransientToolError if the tool is unreachable; DataError for an unknown document.
    """
    answers: dict[tuple[str, CallContext], CallAnswer] = {}
    executed = []
    for call in proposed:
        if call.drop_reason is not None:
            continue
        if call.document_id not in documents:
            raise DataError(f"call {call.candidate_id}: unknown document {call.document_id}")
        key = (call.argument, context_of(documents[call.document_id]))
        if key not in answers:
            answers[key] = run_call(tool, *key, config)
        executed.append(_executed(call, tool, answers[key]))
    return executed


def count_outcomes(executed: Iterable[ExecutedCall]) -> dict[str, int]:
    """Number of calls by outcome; every outcome has an entry."""
    counts = Counter(call.outcome for call in executed)
    return {outcome.value: counts[outcome] for outcome in Outcome}


def run_call(tool: Tool, argument: str, context: CallContext, config: ExecuteConfig) -> CallAnswer:
    """How one call ends, bounded in time, argument and result.

    Raises: TransientToolError for an outage. Choice: any OSError counts as one (a refused
    connection is an OSError), because recording it would quietly empty the data set.
    """
    if len(argument) > config.max_argument_chars:
        reason = f"argument of {len(argument)} characters; at most {config.max_argument_chars}"
        return CallAnswer(Outcome.REJECTED, reason, "", 0.0)
    started = time.perf_counter()
    outcome, text = _attempt(tool, argument, context, config.timeout_seconds)
    latency = time.perf_counter() - started
    if outcome is not Outcome.OK:
        return CallAnswer(outcome, text[:MAX_REASON_CHARS], "", latency)
    result = text.strip()[: config.max_result_chars].rstrip()
    return CallAnswer(Outcome.OK if result else Outcome.EMPTY, "", result, latency)


def _attempt(
    tool: Tool, argument: str, context: CallContext, timeout_seconds: float
) -> tuple[Outcome, str]:
    """(ok, result), or another outcome with its reason."""
    try:
        return _call_within(tool, argument, context, timeout_seconds)
    except TransientToolError:
        raise
    except OSError as error:
        raise TransientToolError(f"{tool.name}: {type(error).__name__}: {error}") from error
    except ToolInputRejected as error:
        return Outcome.REJECTED, str(error)
    except ToolError as error:
        return Outcome.FAILED, str(error)
    except _TOOL_FAULTS as error:
        _LOGGER.warning("%s(%r) raised %r", tool.name, argument, error)
        return Outcome.FAILED, type(error).__name__  # its message may differ between runs


def _call_within(
    tool: Tool, argument: str, context: CallContext, timeout_seconds: float
) -> tuple[Outcome, str]:
    """(ok, result), or (timed_out, reason); what the tool raises is raised.

    A thread cannot be killed: a call that hangs goes on in the background until the process ends.
    A tool that can hang must do its work in a process of its own.
    """
    answer: Future[str] = Future()

    def work() -> None:
        try:
            answer.set_result(tool.call(argument, context))
        except BaseException as error:  # not handled here: handed to the thread that waits
            answer.set_exception(error)

    worker = threading.Thread(target=work, name=f"tool-{tool.name}", daemon=True)
    worker.start()
    worker.join(timeout_seconds)
    if not answer.done():
        return Outcome.TIMED_OUT, f"no answer within {timeout_seconds:g} s"
    text = answer.result()
    if not isinstance(text, str):
        raise ToolError(f"{tool.name} returned {type(text).__name__}, expected text")
    return Outcome.OK, text


def _executed(call: ProposedCall, tool: Tool, answer: CallAnswer) -> ExecutedCall:
    return ExecutedCall(
        candidate_id=call.candidate_id,
        document_id=call.document_id,
        tool=call.tool,
        char_offset=call.char_offset,
        token_index=call.token_index,
        window_start=call.window_start,
        window_end=call.window_end,
        argument=call.argument,
        loss_without_call=call.loss_without_call,
        tool_version=tool.version,
        outcome=answer.outcome,
        outcome_reason=answer.reason,
        result=answer.result,
        latency_seconds=answer.latency_seconds,
    )
