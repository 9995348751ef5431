"""What calibration measures: documents annotated with nothing pruned, and what that cost."""

import math
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from toolformer_core.calling.caller import Caller
from toolformer_core.config.pipeline import Control, ToolSampleConfig, ToolScoreConfig
from toolformer_core.execute import execute_calls
from toolformer_core.filter import beats_control, result_pool, score_calls
from toolformer_core.lm import (
    AnnotationPrompt,
    Continuation,
    ContinuationRequest,
    LanguageModel,
    LossRequest,
    Reading,
    SamplingSettings,
    TokenizedText,
)
from toolformer_core.losses import loss_reduction
from toolformer_core.records import Document, ExecutedCall, ProposedCall, ScoredCall
from toolformer_core.sample import annotation_prompt, sample_calls
from toolformer_core.shards import stored_bytes
from toolformer_core.tools.base import Tool

Item = TypeVar("Item")


class Progress(Protocol):
    """Shows how far a loop over items has come."""

    def __call__(self, items: Sequence[Item], what: str) -> Iterable[Item]:
        """The items, one after the other."""


def no_progress(items: Sequence[Item], what: str) -> Iterable[Item]:
    """The items, and nothing is shown."""
    return items


EVERYTHING = -math.inf
"""As prune_below: nothing is pruned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One sampled call of the calibration; losses in nats, None where there is no result to try.

    `position_rank` counts from the likeliest place of the call's window.
    """

    position_rank: int
    sample_index: int
    start_probability: float
    loss_without_call: float
    loss_with_result: float | None = None
    loss_reduction: float | None = None
    wrong_result_reduction: float | None = None
    passes_controls: bool = True  # those in force
    is_right: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What the annotation of some documents gave and cost."""

    num_documents: int
    trials: tuple[Trial, ...]
    seconds_reading: float
    seconds_sampling: float
    seconds_scoring: float
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotator:
    """Steps 1 to 3 of the paper with one model, one tool and their settings."""

    lm: LanguageModel
    caller: Caller
    sample: ToolSampleConfig
    score: ToolScoreConfig
    measures_everything: bool = False
    """Whether nothing is pruned and a wrong result is tried, be it in force as a control or not."""
    documents_per_shard: int = 32
    progress: Progress = no_progress

    @property
    def tool(self) -> Tool:
        """The tool that is called."""
        return self.caller.tool

    def run(self, documents: Sequence[Document]) -> Tried:
        """The documents annotated shard by shard, with the time that it took."""
        timed = _TimedLM(self.lm)
        self.lm.read(annotation_prompt(self.tool), [], [])  # what is done once is not timed
        starts = range(0, len(documents), self.documents_per_shard)
        shards = [documents[first : first + self.documents_per_shard] for first in starts]
        started = time.perf_counter()
        sampled = [self._sampled(shard, timed) for shard in self.progress(shards, "sample")]
        sampling_ended = time.perf_counter()
        executed = [
            execute_calls(proposed, _by_id(shard), self.caller)
            for proposed, shard in zip(sampled, shards, strict=True)
        ]
        pool = result_pool(call for calls in executed for call in calls)
        pairs = list(zip(executed, shards, strict=True))
        scored = [
            self._scored(calls, shard, pool) for calls, shard in self.progress(pairs, "score")
        ]
        ended = time.perf_counter()
        return Tried(
            num_documents=len(documents),
            trials=tuple(
                trial
                for proposed, found in zip(sampled, scored, strict=True)
                for trial in trials_of(proposed, found, self.score.controls)
            ),
            seconds_reading=sampling_ended - started - timed.seconds_continuing,
            seconds_sampling=timed.seconds_continuing,
            seconds_scoring=ended - sampling_ended,
            num_bytes=sum(stored_bytes(calls, ProposedCall) for calls in sampled)
            + sum(stored_bytes(calls, ExecutedCall) for calls in executed)
            + sum(stored_bytes(calls, ScoredCall) for calls in scored),
        )

    def _sampled(self, documents: Sequence[Document], lm: LanguageModel) -> list[ProposedCall]:
        calls, _ = sample_calls(
            documents,
            lm,
            self.tool,
            self.sample,
            num_scored_tokens=self.score.num_scored_tokens,
            token_weights=self.score.token_weights,
        )
        return calls

    def _scored(
        self, executed: Sequence[ExecutedCall], documents: Sequence[Document], pool: Sequence[str]
    ) -> list[ScoredCall]:
        measured = dict.fromkeys((*self.score.controls, "wrong_result"))
        return score_calls(
            executed,
            _by_id(documents),
            self.lm,
            self.tool,
            self.score.model_copy(update={"controls": tuple(measured)})
            if self.measures_everything
            else self.score,
            prune_below=EVERYTHING if self.measures_everything else self.sample.prune_below or 0.0,
            result_pool=pool,
        )


def _by_id(documents: Sequence[Document]) -> dict[str, Document]:
    return {document.document_id: document for document in documents}


def trials_of(
    proposed: Sequence[ProposedCall], scored: Sequence[ScoredCall], controls: Sequence[Control]
) -> Iterator[Trial]:
    """Every sampled call with the rank of its position and, where it has a result, its losses.

    `controls` are those in force.
    """
    places: dict[tuple[str, int], dict[int, float]] = defaultdict(dict)
    for call in proposed:
        window = places[call.document_id, call.window_start]
        window[call.token_index] = call.start_probability
    ranks = {
        key: {i: rank for rank, i in enumerate(sorted(window, key=lambda i: (-window[i], i)))}
        for key, window in places.items()
    }
    by_id = {call.candidate_id: call for call in scored}
    for call in proposed:
        yield Trial(
            position_rank=ranks[call.document_id, call.window_start][call.token_index],
            sample_index=call.sample_index,
            start_probability=call.start_probability,
            loss_without_call=call.loss_without_call,
            **_scores(by_id.get(call.candidate_id), controls),
        )


def _scores(
    call: ScoredCall | None, controls: Sequence[Control]
) -> dict[str, Any]:  # Any: numbers and truth values
    if call is None:
        return {}
    wrong, empty = call.loss_with_wrong_result, call.loss_with_empty_result
    reduction: float | None = None
    if wrong is not None and empty is not None:
        reduction = loss_reduction(call.loss_without_call, empty, wrong)
    return {
        "loss_with_result": call.loss_with_result,
        "loss_reduction": call.loss_reduction,
        "wrong_result_reduction": reduction,
        "passes_controls": all(beats_control(call, control) for control in controls),
        "is_right": call.is_right,
    }


class _TimedLM:
    """A model that counts the seconds it spends on continuations."""

    def __init__(self, lm: LanguageModel) -> None:
        self._lm = lm
        self.seconds_continuing = 0.0

    @property
    def context_tokens(self) -> int:
        return self._lm.context_tokens

    def tokenize(self, text: str) -> TokenizedText:
        return self._lm.tokenize(text)

    def read(
        self,
        prompt: AnnotationPrompt,
        texts: Sequence[TokenizedText],
        places: Sequence[Collection[int]],
    ) -> Reading:
        return _TimedReading(self, self._lm.read(prompt, texts, places))

    def token_losses(self, requests: Sequence[LossRequest]) -> list[tuple[float, ...]]:
        return self._lm.token_losses(requests)


class _TimedReading:
    def __init__(self, timed: _TimedLM, reading: Reading) -> None:
        self._timed, self._reading = timed, reading

    @property
    def start_probabilities(self) -> Sequence[Mapping[int, float]]:
        return self._reading.start_probabilities

    def continuations(
        self, requests: Sequence[ContinuationRequest], settings: SamplingSettings
    ) -> list[Continuation]:
        started = time.perf_counter()
        found = self._reading.continuations(requests, settings)
        self._timed.seconds_continuing += time.perf_counter() - started
        return found
