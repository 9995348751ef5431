"""Step 2, executing API calls (paper, section 2, "Executing API Calls").

Every proposed call gets an outcome. How a call is made, and what an outage is: calling/caller.py.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from toolformer_core.calling.caller import CallAnswer, Caller
from toolformer_core.errors import DataError
from toolformer_core.records import Document, ExecutedCall, Outcome, ProposedCall
from toolformer_core.tools.base import CallContext, context_of

STAGE_VERSION = 3


def execute_calls(
    proposed: Sequence[ProposedCall], documents: Mapping[str, Document], caller: Caller
) -> list[ExecutedCall]:
    """The proposed calls that were not dropped, each with its outcome; equal ones run once.

    Raises: TransientToolError if the tool is unreachable; DataError for an unknown document.
    """
    calls = [call for call in proposed if call.drop_reason is None]
    answers = caller.answers([(call.argument, _context(call, documents)) for call in calls])
    version = caller.tool.version
    return [_executed(call, version, answer) for call, answer in zip(calls, answers, strict=True)]


def count_outcomes(executed: Iterable[ExecutedCall]) -> dict[str, int]:
    """Number of calls by outcome; every outcome has an entry."""
    counts = Counter(call.outcome for call in executed)
    return {outcome.value: counts[outcome] for outcome in Outcome}


def _context(call: ProposedCall, documents: Mapping[str, Document]) -> CallContext:
    if call.document_id not in documents:
        raise DataError(f"call {call.candidate_id}: unknown document {call.document_id}")
    return context_of(documents[call.document_id])


def _executed(call: ProposedCall, tool_version: str, answer: CallAnswer) -> ExecutedCall:
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
        tool_version=tool_version,
        outcome=answer.outcome,
        outcome_reason=answer.reason,
        result=answer.result,
        latency_seconds=answer.latency_seconds,
    )
