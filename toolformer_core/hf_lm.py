"""A transformers causal language model as the `LanguageModel` of the method.

Reading: the few-shot head of P(x) is run once and its keys and values shared by all documents.
One forward over x, the tail and x again gives p_i for every position at once; the continuations of
several documents then decode together as trees (hf_reading.py, hf_tree.py).

Losses: requests with the same prefix and text share one sequence, and only the asked tokens go
through the vocabulary head. Sequences are packed into one row of tokens (hf_packing.py).

A model whose attention cannot be packed gets the 4-D mask itself, one document at a time; one that
misreads that too is decoded by copies. Which it is, is found out by trying (hf_probe.py).

Shape legend: B batch, T tokens, N tokens of all sequences, V vocabulary.
"""

import itertools
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from toolformer_core import hf_packing as packing
from toolformer_core.hf_draw import token_texts
from toolformer_core.hf_probe import Way, context_tokens, find_way, pad_left
from toolformer_core.hf_reading import HEAD_CHUNK, CopiedReading, TreeReading, length_buckets
from toolformer_core.hf_tree import Tree
from toolformer_core.lm import AnnotationPrompt, LossRequest, TokenizedText
from toolformer_core.notation import START

_MAX_SCORED = 2048  # tokens through the vocabulary head in one forward pass


class HFLanguageModel:
    """Adapter over a model and a fast tokenizer; forward passes run in the model's dtype."""

    def __init__(
        self,
        model: Any,  # Any: transformers has no common typed base for causal models
        tokenizer: Any,  # Any: likewise for fast tokenizers
        token_budget: int = 4096,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.token_budget = token_budget
        self._heads: dict[str, Tree] = {}

    @property
    def context_tokens(self) -> int:
        """Longest sequence that the model takes and attends to as a whole."""
        return context_tokens(self.model.config.get_text_config())

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        device: torch.device = self.model.device
        return device

    @cached_property
    def document_start_id(self) -> int:
        """The token before x_1, so that x_1 has a loss and position 0 a probability.

        Choice: <|endoftext|> where the vocabulary has it, because it parts documents in
        pretraining even where chat tuning has renamed the start token; else bos, else eos.
        """
        vocabulary = self.tokenizer.get_vocab()
        for token in ("<|endoftext|>", self.tokenizer.bos_token, self.tokenizer.eos_token):
            if token in vocabulary:
                return int(vocabulary[token])
        raise ValueError("the tokenizer has no token that can start a document")

    @cached_property
    def start_ids(self) -> tuple[int, ...]:
        """Every token that spells the start of a call, with and without a leading space."""
        texts = token_texts(self.tokenizer)
        return tuple(i for i, text in texts.items() if text.strip(" ") == START)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def tokenize(self, text: str) -> TokenizedText:
        """The text as tokens with the character at which each starts.

        A character that takes several tokens starts at the first; the others start where it
        ends, so that no position lies inside a character.
        """
        encoded = self.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        starts, reached = [], 0
        for start, end in encoded["offset_mapping"]:
            starts.append(max(start, reached))
            reached = max(reached, end)
        return TokenizedText(
            text=text, token_ids=tuple(encoded["input_ids"]), char_offsets=(*starts, len(text))
        )

    @cached_property
    def way(self) -> Way:
        """How sequences go through the model."""
        start = [self.document_start_id, *self.encode("In the morning")]
        first = [*start, *self.encode(" two and three are five, says the miller.")]
        return find_way(self.model, (first, [*start, *self.encode(" the mill is closed")]))

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
        prefixes = {request.prefix for request in requests}
        before = {z: [self.document_start_id, *self.encode(z)] for z in prefixes}
        groups: dict[tuple[str, TokenizedText, int], list[LossRequest]] = {}
        keys = []
        for k, request in enumerate(requests):
            # Cut at the front, a sequence serves one request alone.
            is_cut = len(before[request.prefix]) + request.last > self.context_tokens
            keys.append((request.prefix, request.tokens, k if is_cut else -1))
            groups.setdefault(keys[-1], []).append(request)
        sequences = [self._sequence(before[z], members) for (z, _, _), members in groups.items()]
        found = dict(zip(groups, self._sequence_losses(sequences), strict=True))
        return [
            tuple(found[key].get(j, math.nan) for j in range(request.first, request.last))
            for key, request in zip(keys, requests, strict=True)
        ]

    def _sequence(self, before: list[int], requests: Sequence[LossRequest]) -> "_Sequence":
        """One sequence for requests of one prefix and text."""
        scored = sorted({j for r in requests for j in range(r.first, r.last)})
        last = scored[-1] + 1 if scored else 0
        first = max(0, last + len(before) - self.context_tokens)
        return _Sequence(
            token_ids=[*before, *requests[0].tokens.token_ids[first:last]],
            scored=[j for j in scored if j >= first],
            shift=len(before) - first,
        )

    def _sequence_losses(self, sequences: Sequence["_Sequence"]) -> list[dict[int, float]]:
        """Token index to loss, for each sequence."""
        losses: list[dict[int, float]] = [{} for _ in sequences]
        asked = [k for k, sequence in enumerate(sequences) if sequence.scored]
        lengths = [len(sequences[k].token_ids) for k in asked]
        for bucket in self.batches(lengths):
            for batch in _few_scored([asked[k] for k in bucket], sequences):
                chosen = [sequences[k] for k in batch]
                nll = iter(self._batch_losses(chosen))
                for k in batch:
                    losses[k] = {j: next(nll) for j in sequences[k].scored}
        return losses

    def batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Indices of rows that go through the model together, within the token budget."""
        for bucket in length_buckets(lengths, self.token_budget):
            if self.way is Way.WHOLE:  # padding would enter the model's state
                groups = itertools.groupby(bucket, key=lambda k: lengths[k])
                yield from (list(equal) for _, equal in groups)
            else:
                yield bucket

    def _batch_losses(self, batch: Sequence["_Sequence"]) -> list[float]:
        """Losses of all scored tokens of the batch, sequence by sequence."""
        if self.way is Way.PACKED:
            layout = packing.Separate([len(s.token_ids) for s in batch], self.device)
            starts = itertools.accumulate((len(s.token_ids) for s in batch), initial=0)
            keep = [
                start + s.shift + j - 1
                for start, s in zip(starts, batch, strict=False)
                for j in s.scored
            ]
            logits_NV = packing.packed_logits(
                self.model,
                layout,
                [i for s in batch for i in s.token_ids],
                [p for s in batch for p in range(len(s.token_ids))],
                keep,
            )
        else:
            logits_NV = self._padded_logits(batch)
        targets = [s.token_ids[s.shift + j] for s in batch for j in s.scored]
        targets_N = torch.tensor(targets, device=self.device)
        chunks = zip(
            torch.split(logits_NV, HEAD_CHUNK), torch.split(targets_N, HEAD_CHUNK), strict=True
        )
        nll = [
            torch.nn.functional.cross_entropy(chunk_NV.float(), chunk_N, reduction="none")
            for chunk_NV, chunk_N in chunks
        ]
        found: list[float] = torch.cat(nll).tolist()
        return found

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

    def pad_left(self, rows: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and attention mask [B, T], padded in front."""
        return pad_left(rows, self.document_start_id, self.device)

    def head_tree(self, head: str) -> Tree:
        """The document start and a prompt head, read once."""
        if head not in self._heads:
            ids = [self.document_start_id, *self.encode(head)]
            tree = Tree(self.model, 1, is_packed=self.way is Way.PACKED)
            tree.read(slice(0, 1), [ids], [[len(ids) - 1]])
            tree.seal(len(ids))
            self._heads[head] = tree
        return self._heads[head]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sequence:
    """Start token, prefix z and x up to its last scored token; x_j stands at shift + j."""

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
