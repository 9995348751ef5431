"""What is asked of decoding, what happens on the way, and what comes out."""

from dataclasses import dataclass
from typing import Literal

from toolformer_core.config.pipeline import DecodeConfig
from toolformer_core.records import Outcome
from toolformer_core.tools.base import CallContext

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeRequest:
    """A text to go on with."""

    prompt: str
    context: CallContext
    config: DecodeConfig
    starts_document: bool = True  # False: a chat template has written a start of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedCall:
    """One call made while decoding; `char_offset` is its place in the completion.

    Only a call with outcome ok stands there: any other was taken back.
    """

    tool: str
    argument: str
    result: str
    outcome: Outcome
    reason: str
    char_offset: int
    latency_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A completion with its calls written out, and the same without them."""

    completion: str
    answer: str
    calls: tuple[DecodedCall, ...]
    num_malformed: int  # calls that never reached the arrow, or named no tool
    finish_reason: FinishReason
    num_prompt_tokens: int
    token_ids: tuple[int, ...]  # of the completion, results included


@dataclass(frozen=True, slots=True)
class TextPiece:
    """The next part of an answer; it is never taken back."""

    ticket: int
    text: str


@dataclass(frozen=True, slots=True)
class CallStarted:
    """The model has written a call up to its arrow; the tool is at work."""

    ticket: int
    tool: str
    argument: str
    char_offset: int
    written: str  # by the model, with the space before it


@dataclass(frozen=True, slots=True)
class CallFinished:
    """The tool has answered, or has not: see the outcome."""

    ticket: int
    call: DecodedCall
    rest: str  # what follows the arrow in the completion; empty if the call is taken back


@dataclass(frozen=True, slots=True)
class Finished:
    """Nothing more comes for this ticket."""

    ticket: int
    generation: Generation


Event = TextPiece | CallStarted | CallFinished | Finished
