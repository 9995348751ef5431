"""One frozen type per state of the data, from a document to an augmented document.

Every type is one row of a Parquet shard. A candidate call keeps its `candidate_id` through all
states, so the states join without ambiguity.
"""

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class DropReason(StrEnum):
    """Why a candidate call went no further; every drop bears exactly one."""

    NOT_CLOSED = "not_closed"  # sampling ended without the closing bracket (paper, footnote 2)
    MALFORMED = "malformed"  # closed, but not Name(argument)
    DUPLICATE = "duplicate"  # same argument at the same position as an earlier sample
    LOOK_AHEAD = "look_ahead"  # the argument needs something that first appears later
    REJECTED = "rejected"  # the tool cannot process the argument
    FAILED = "failed"  # the tool raised an error of its own
    TIMED_OUT = "timed_out"  # no answer within the limit
    EMPTY = "empty"  # the tool answered with nothing
    BELOW_THRESHOLD = "below_threshold"  # loss_reduction < filtering_threshold
    NOT_FINITE = "not_finite"  # a loss is NaN or infinite
    WRONG_RESULT = "wrong_result"  # another call's result lowers the loss as much (control)
    SHUFFLED_RESULT = "shuffled_result"  # so does its own result, shuffled (control)


class Outcome(StrEnum):
    """How the execution of one call ended."""

    OK = "ok"
    REJECTED = "rejected"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    EMPTY = "empty"


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One text of the corpus C; `document_id` is the digest of its text, url and date."""

    document_id: str
    text: str
    url: str | None
    date: str | None  # ISO 8601, to the day
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantinedRow:
    """One input row that could not become a document."""

    source: str
    row_number: int  # 1-based line or row of its file
    reason: str
    excerpt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposedCall:
    """One sampled call c at position i (paper, section 2, "Sampling API Calls").

    The tokens from `window_start` to `window_end` are what the model saw of the document: all of
    it, unless it is longer than the context. `drop_reason` is None where the call goes on to
    execution.
    """

    candidate_id: str
    document_id: str
    tool: str
    char_offset: int
    token_index: int
    window_start: int
    window_end: int
    start_probability: float  # p_i
    sample_index: int
    argument: str  # the raw sample where it could not be parsed
    loss_without_call: float  # L_i(eps), nats
    token_losses_without_call: tuple[float, ...]  # of the scored tokens, nats
    drop_reason: DropReason | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutedCall:
    """A proposed call with its outcome; `result` is empty unless the outcome is ok."""

    candidate_id: str
    document_id: str
    tool: str
    char_offset: int
    token_index: int
    window_start: int
    window_end: int
    argument: str
    loss_without_call: float
    tool_version: str
    outcome: Outcome
    outcome_reason: str
    result: str
    latency_seconds: float = field(metadata={"volatile": True})


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredCall:
    """An executed call with its three losses in nats (paper, section 2, "Filtering API Calls").

    A loss that could not change the verdict is not measured and None: loss_with_empty_result where
    the call stays below `prune_below` even without it (loss_reduction is then an upper bound), the
    controls where they are not asked for or the call is below `prune_below`.
    `is_right` tells, for a checkable call, whether the text goes on with the result.
    """

    candidate_id: str
    document_id: str
    tool: str
    char_offset: int
    token_index: int
    argument: str
    result: str
    loss_without_call: float  # L_i(eps)
    loss_with_empty_result: float | None  # L_i(e(c, eps))
    loss_with_result: float  # L+
    loss_with_wrong_result: float | None  # L_i(e(c, r')), r' the result of another call
    loss_with_shuffled_result: float | None  # L_i(e(c, r'')), r'' is r shuffled
    loss_reduction: float  # L- minus L+
    scored_tokens: tuple[str, ...]  # x_i, x_i+1, ... as text
    token_losses_with_empty_result: tuple[float, ...]  # nats; empty where not measured
    token_losses_with_result: tuple[float, ...]
    is_right: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterDecision:
    """Whether one scored call is kept at the threshold in force."""

    candidate_id: str
    document_id: str
    tool: str
    char_offset: int
    argument: str
    result: str
    loss_reduction: float
    filtering_threshold: float  # tau_f
    kept: bool
    drop_reason: DropReason | None
    is_right: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSpan:
    """One inserted call: `augmented[start:end]` is the insertion, spacing included."""

    candidate_id: str
    tool: str
    argument: str
    result: str
    char_offset: int  # in the original text
    start: int  # in the augmented text
    end: int
    result_start: int  # what the tool wrote, in the augmented text,
    result_end: int  # up to the end of the closing bracket


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentedDocument:
    """One row of C*: the text with its calls, and the spans that undo the insertion exactly."""

    document_id: str
    source: str
    original_text: str
    augmented_text: str
    calls: tuple[CallSpan, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatedCall:
    """One call made while an item was answered; only one with outcome ok stands in the text."""

    tool: str
    argument: str
    result: str
    outcome: Outcome
    char_offset: int  # in the completion


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatedItem:
    """One benchmark item answered by one arm.

    `score` is 1 or 0; of perplexity the mean loss in nats of `weight` tokens, else the weight is 1.
    """

    benchmark: str
    arm: str
    model: str  # digest
    call_top_k: int  # 0 where calls are off
    item_id: str
    prompt: str
    completion: str
    answer: str  # without calls
    gold: tuple[str, ...]
    score: float
    weight: int
    num_calls: int
    num_malformed: int
    calls: tuple[EvaluatedCall, ...]
    num_prompt_tokens: int
    num_tokens: int  # generated, results included
    tool_seconds: float = field(metadata={"volatile": True})
    latency_seconds: float = field(metadata={"volatile": True})


def digest(*parts: Any) -> str:  # Any: anything with a stable str()
    """Hexadecimal digest of the parts, 16 characters; parts cannot run into one another."""
    joined = "\x1f".join(str(part) for part in parts)
    return hashlib.sha256(joined.encode("utf-8", "surrogatepass")).hexdigest()[:16]
