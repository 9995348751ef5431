"""A transformers causal language model as the `LanguageModel` of the method.

Reading: the few-shot head of P(x) is run once and its keys and values shared by all documents.
One forward over x, the tail and x again gives p_i for every position at once; the continuations of
several documents then decode together as trees (reading.py, tree.py).

Losses: requests with the same prefix and text share one sequence, and only the asked tokens go
through the vocabulary head. Sequences are packed into one row of tokens (packing.py). Calls that
stand in their text branch off it: it is read once for all of them (branches.py).

A model whose attention cannot be packed gets the 4-D mask itself, one document at a time; one that
misreads that too is decoded by copies. Which it is, is found out by trying (probe.py).

Shape legend: B batch, T tokens, N tokens of all sequences, S tokens that spell <API>, V vocabulary.
"""

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from toolformer_core.lm import AnnotationPrompt, LossRequest, TokenizedText
from toolformer_core.transformers_lm import packing as packing
from toolformer_core.transformers_lm.branches import branch_losses
from toolformer_core.transformers_lm.memory import release_memory
from toolformer_core.transformers_lm.model import HEAD_CHUNK, HFModel, nll
from toolformer_core.transformers_lm.probe import Way
from toolformer_core.transformers_lm.reading import CopiedReading, TreeReading

_MAX_SCORED = 2048  # tokens through the vocabulary head in one forward pass

Figure = TypeVar("Figure")


@dataclass(frozen=True, slots=True, kw_only=True)
class NextToken:
    """What M would write at a place, and how near it is to starting a call there."""

    token_id: int  # the likeliest
    start_rank: int  # tokens likelier than the likeliest spelling of <API>
    start_probability: float  # p(<API>), all spellings together


class HFLanguageModel(HFModel):
    """The `LanguageModel` adapter; see the module docstring."""

    def read(
        self,
        prompt: AnnotationPrompt,
        texts: Sequence[TokenizedText],
        places: Sequence[Collection[int]],
    ) -> TreeReading | CopiedReading:
        """Read every text as P(x) followed by x; see the module docstring."""
        grows_trees = self.way in (Way.PACKED, Way.MASKED)
        return (TreeReading if grows_trees else CopiedReading)(self, prompt, texts, places)

    @torch.inference_mode()
    def token_losses(self, requests: Sequence[LossRequest]) -> list[tuple[float, ...]]:
        """Negative log-likelihoods of the asked tokens, in nats, computed in float32.

        Where prefix and text together are longer than the context, the model sees the text from
        as far back as fits; a token that is then not seen at all has the loss NaN.
        """
        release_memory()
        branching = [k for k, request in enumerate(requests) if self._branches(request)]
        found = dict(
            zip(branching, branch_losses(self, [requests[k] for k in branching]), strict=True)
        )
        others = [k for k in range(len(requests)) if k not in found]
        losses = self._separate_losses([requests[k] for k in others])
        found |= dict(zip(others, losses, strict=True))
        return [found[k] for k in range(len(requests))]

    def _branches(self, request: LossRequest) -> bool:
        """Whether the call stands in its text, which is then read once for all its calls."""
        is_within = request.prefix_before > 0 and request.prefix and request.first < request.last
        if not is_within or self.way not in (Way.PACKED, Way.MASKED):
            return False
        return 1 + len(self.encode(request.prefix)) + request.last <= self.context_tokens

    def _separate_losses(self, requests: Sequence[LossRequest]) -> list[tuple[float, ...]]:
        """As token_losses, each prefix with its text as a sequence of its own."""
        prefixes = {request.prefix for request in requests}
        before = {z: [self.document_start_id, *self.encode(z)] for z in prefixes}
        groups: dict[tuple[str, TokenizedText, int, int], list[LossRequest]] = {}
        keys = []
        for k, request in enumerate(requests):
            # Cut at the front, a sequence serves one request alone.
            is_cut = len(before[request.prefix]) + request.last > self.context_tokens
            keys.append(
                (request.prefix, request.tokens, request.prefix_before, k if is_cut else -1)
            )
            groups.setdefault(keys[-1], []).append(request)
        sequences = [self._sequence(before[z], members) for (z, *_), members in groups.items()]
        found = dict(zip(groups, self._sequence_losses(sequences), strict=True))
        return [
            tuple(found[key].get(j, math.nan) for j in range(request.first, request.last))
            for key, request in zip(keys, requests, strict=True)
        ]

    @torch.inference_mode()
    def next_tokens(
        self, asked: Sequence[tuple[Sequence[int], Sequence[int]]]
    ) -> list[dict[int, NextToken]]:
        """What M has behind some tokens of a sequence, by their indices.

        `asked`: token ids as M reads them, the document start included, and ascending indices.
        """
        release_memory()
        sequences = [
            _Sequence(token_ids=list(ids[: max(places, default=-1) + 1]), scored=[*places], shift=1)
            for ids, places in asked
        ]
        return self._measured(sequences, lambda logits_NV, _: self._next_tokens(logits_NV))

    def _next_tokens(self, logits_NV: torch.Tensor) -> list[NextToken]:
        """See `next_tokens`; ranks are those of choice.py."""
        found = []
        for chunk_NV in torch.split(logits_NV, HEAD_CHUNK):
            starts_NS = chunk_NV[:, list(self.start_ids)]
            ranks_N = (chunk_NV > starts_NS.amax(-1, keepdim=True)).sum(-1)
            log_sums_N = starts_NS.float().logsumexp(-1) - chunk_NV.float().logsumexp(-1)
            columns = (chunk_NV.argmax(-1), ranks_N, log_sums_N.exp())
            found += [
                NextToken(token_id=token_id, start_rank=rank, start_probability=probability)
                for token_id, rank, probability in zip(*(c.tolist() for c in columns), strict=True)
            ]
        return found

    def _sequence(self, before: list[int], requests: Sequence[LossRequest]) -> "_Sequence":
        """One sequence for requests of one prefix, at one place of one text."""
        scored = sorted({j for r in requests for j in range(r.first, r.last)})
        last = scored[-1] + 1 if scored else 0
        first = max(0, last + len(before) - self.context_tokens)
        start, *prefix = before
        token_ids, at = requests[0].tokens.token_ids, max(first, requests[0].prefix_before)
        return _Sequence(
            token_ids=[start, *token_ids[first:at], *prefix, *token_ids[at:last]],
            scored=[j for j in scored if j >= first],
            shift=len(before) - first,
        )

    def _sequence_losses(self, sequences: Sequence["_Sequence"]) -> list[dict[int, float]]:
        """Token index to loss, for each sequence."""
        return self._measured(sequences, self._losses)

    def _measured(
        self,
        sequences: Sequence["_Sequence"],
        measure: Callable[[torch.Tensor, Sequence["_Sequence"]], list[Figure]],
    ) -> list[dict[int, Figure]]:
        """Token index to figure, for each sequence.

        `measure` gets the logits before all scored tokens of a batch [N, V], and the batch.
        """
        found: list[dict[int, Figure]] = [{} for _ in sequences]
        asked = [k for k, sequence in enumerate(sequences) if sequence.scored]
        lengths = [len(sequences[k].token_ids) for k in asked]
        for bucket in self.batches(lengths):
            for batch in _few_scored([asked[k] for k in bucket], sequences):
                chosen = [sequences[k] for k in batch]
                figures = iter(measure(self._batch_logits(chosen), chosen))
                for k in batch:
                    found[k] = {j: next(figures) for j in sequences[k].scored}
        return found

    def _batch_logits(self, batch: Sequence["_Sequence"]) -> torch.Tensor:
        """Logits before all scored tokens of the batch, sequence by sequence [N, V]."""
        if self.way is not Way.PACKED:
            return self._padded_logits(batch)
        starts = itertools.accumulate((len(s.token_ids) for s in batch), initial=0)
        return packing.packed_logits(
            self.model,
            packing.Separate([len(s.token_ids) for s in batch], self.device),
            [i for s in batch for i in s.token_ids],
            [p for s in batch for p in range(len(s.token_ids))],
            [
                start + s.shift + j - 1
                for start, s in zip(starts, batch, strict=False)
                for j in s.scored
            ],
        )

    def _losses(self, logits_NV: torch.Tensor, batch: Sequence["_Sequence"]) -> list[float]:
        """Losses of all scored tokens of the batch, sequence by sequence."""
        return nll(logits_NV, [s.token_ids[s.shift + j] for s in batch for j in s.scored])

    def _padded_logits(self, batch: Sequence["_Sequence"]) -> torch.Tensor:
        """Logits before each scored token, from rows padded on the left [N, V]."""
        ids_BT, mask_BT = self.pad_left([s.token_ids for s in batch])
        longest = ids_BT.shape[1]
        gaps = [longest - len(s.token_ids) for s in batch]
        first = min(gap + s.shift + s.scored[0] - 1 for gap, s in zip(gaps, batch, strict=True))
        logits_BTV = self.model(
            input_ids=ids_BT,
            attention_mask=mask_BT,
            position_ids=(mask_BT.cumsum(1) - 1).clamp(min=0),
            logits_to_keep=longest - first,
            use_cache=False,
        ).logits
        return torch.cat(
            [
                logits_TV[[gap + s.shift + j - 1 - first for j in s.scored]]
                for logits_TV, gap, s in zip(logits_BTV, gaps, batch, strict=True)
            ]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sequence:
    """Start token and x with prefix z in it, up to the last scored x_j, at shift + j."""

    token_ids: list[int]
    scored: list[int]  # token indices j in x
    shift: int


def _few_scored(batch: Sequence[int], sequences: Sequence[_Sequence]) -> Iterator[list[int]]:
    """The batch in parts whose scored tokens are few enough for the vocabulary head."""
    part: list[int] = []
    for k in batch:
        if part and sum(len(sequences[p].scored) for p in [*part, k]) > _MAX_SCORED:
            yield part
            part = []
        part.append(k)
    yield part
