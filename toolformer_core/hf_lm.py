"""A transformers causal language model as the `LanguageModel` of the method.

Reading: the few-shot head of P(x) is run once and its keys and values shared by all documents.
One forward over x, the tail and x again gives p_i for every position at once; the continuations of
several documents then decode together as trees (hf_reading.py, hf_tree.py).

Losses: requests with the same prefix and text share one sequence, and only the asked tokens go
through the vocabulary head. Sequences are packed into one row of tokens (hf_packing.py).

A model whose attention cannot be packed gets the 4-D mask itself, one document at a time; one that
misreads that too is decoded by copies. Which it is, is found out by trying, once per model.

Shape legend: B batch, T tokens, N tokens of all sequences, V vocabulary.
"""

import itertools
import logging
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from toolformer_core import hf_packing as packing
from toolformer_core.hf_draw import token_texts
from toolformer_core.hf_reading import CopiedReading, TreeReading, length_buckets
from toolformer_core.hf_tree import Tree
from toolformer_core.lm import AnnotationPrompt, LossRequest, TokenizedText
from toolformer_core.notation import START

_LOGGER = logging.getLogger(__name__)

_MAX_SCORED = 2048  # tokens through the vocabulary head in one forward pass
_LIMITS = ("max_position_embeddings", "sliding_window")
_HEAD_CHUNK = 128  # positions whose logits are held in float32 at a time
_MISFITS = (AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError)
"""What a model raises that does not take our masks or layouts."""


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
        config = self.model.config.get_text_config()
        limits = (getattr(config, name, None) for name in _LIMITS)
        return min((int(limit) for limit in limits if limit), default=1 << 20)

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
    def is_packed(self) -> bool:
        """Whether many sequences can go through the model as one row of tokens."""
        if not packing.supports(self.model):
            return False
        found = self._agrees("packed attention", lambda: _packed_probe(self.model, self._probe_ids))
        if found:
            packing.install(self.model)
        return found

    @cached_property
    def takes_mask(self) -> bool:
        """Whether the model can decode a tree: packed, or under a 4-D mask of ours."""
        if self.is_packed:
            return True
        found = self._agrees("a 4-D mask", lambda: _masked_probe(self.model, self._probe_ids))
        if not found:
            _LOGGER.warning(
                "%s does not take a 4-D attention mask: every continuation is decoded as a copy "
                "of its document, which is several times slower",
                type(self.model).__name__,
            )
        return found

    @cached_property
    def _probe_ids(self) -> tuple[list[int], list[int]]:
        """Two sequences of unlike length with the same beginning."""
        start = [self.document_start_id, *self.encode("In the morning")]
        return (
            [*start, *self.encode(" two and three are five, says the miller.")],
            [*start, *self.encode(" the mill is closed")],
        )

    @torch.inference_mode()
    def _agrees(self, what: str, probe: Callable[[], torch.Tensor]) -> bool:
        """Whether the probe's logits are those of plain passes over each sequence."""
        plain = [
            self.model(input_ids=torch.tensor([ids], device=self.device), use_cache=False).logits[0]
            for ids in self._probe_ids
        ]
        expected_NV = torch.cat(plain).float()
        try:
            difference_NV = probe().float() - expected_NV
        except _MISFITS as error:
            _LOGGER.info("%s refuses %s: %s", type(self.model).__name__, what, error)
            return False
        is_finite_NV = expected_NV.isfinite()  # a model's own broken logits tell nothing
        if not is_finite_NV.any():
            return True
        # Rounding in bfloat16 moves logits by about a hundredth of their spread.
        tolerance = 0.05 if self.model.dtype.itemsize < 4 else 1e-3
        largest = tolerance * expected_NV[is_finite_NV].std()
        return bool(difference_NV[is_finite_NV].abs().mean() < largest)

    def read(
        self,
        prompt: AnnotationPrompt,
        texts: Sequence[TokenizedText],
        places: Sequence[Collection[int]],
    ) -> TreeReading | CopiedReading:
        """Read every text as P(x) followed by x; see the module docstring."""
        return (TreeReading if self.takes_mask else CopiedReading)(self, prompt, texts, places)

    @torch.inference_mode()
    def token_losses(self, requests: Sequence[LossRequest]) -> list[tuple[float, ...]]:
        """Negative log-likelihoods of the asked tokens, in nats, computed in float32.

        Where prefix and text together are longer than the context, the model sees the text from
        as far back as fits; a token that is then not seen at all has the loss NaN.
        """
        groups: dict[tuple[str, TokenizedText, int], list[LossRequest]] = {}
        keys = [self._group(k, request) for k, request in enumerate(requests)]
        for key, request in zip(keys, requests, strict=True):
            groups.setdefault(key, []).append(request)
        sequences = [self._sequence(members) for members in groups.values()]
        found = dict(zip(groups, self._sequence_losses(sequences), strict=True))
        return [
            tuple(found[key].get(j, math.nan) for j in range(request.first, request.last))
            for key, request in zip(keys, requests, strict=True)
        ]

    def _group(self, index: int, request: LossRequest) -> tuple[str, TokenizedText, int]:
        """Equal for requests that one sequence serves; one cut at the front stands alone."""
        num_tokens = 1 + len(self.encode(request.prefix)) + request.last
        alone = index if num_tokens > self.context_tokens else -1
        return request.prefix, request.tokens, alone

    def _sequence(self, requests: Sequence[LossRequest]) -> "_Sequence":
        """One sequence for requests of one prefix and text."""
        scored = sorted({j for r in requests for j in range(r.first, r.last)})
        last = scored[-1] + 1 if scored else 0
        before = [self.document_start_id, *self.encode(requests[0].prefix)]
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
        for bucket in length_buckets(lengths, self.token_budget):
            for batch in _few_scored([asked[k] for k in bucket], sequences):
                chosen = [sequences[k] for k in batch]
                nll = iter(self._batch_losses(chosen))
                for k in batch:
                    losses[k] = {j: next(nll) for j in sequences[k].scored}
        return losses

    def _batch_losses(self, batch: Sequence["_Sequence"]) -> list[float]:
        """Losses of all scored tokens of the batch, sequence by sequence."""
        if self.is_packed:
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
            torch.split(logits_NV, _HEAD_CHUNK), torch.split(targets_N, _HEAD_CHUNK), strict=True
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
        longest = max(len(row) for row in rows)
        ids = [[self.document_start_id] * (longest - len(row)) + row for row in rows]
        mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
        return torch.tensor(ids, device=self.device), torch.tensor(mask, device=self.device)

    def head_tree(self, head: str) -> Tree:
        """The document start and a prompt head, read once."""
        if head not in self._heads:
            ids = [self.document_start_id, *self.encode(head)]
            tree = Tree(self.model, 1, is_packed=self.is_packed)
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


def _packed_probe(model: Any, sequences: Sequence[list[int]]) -> torch.Tensor:  # Any: see above
    """Logits of all tokens, the sequences packed."""
    own = packing.install(model)
    ids = [i for sequence in sequences for i in sequence]
    positions = [p for sequence in sequences for p in range(len(sequence))]
    layout = packing.Separate([len(sequence) for sequence in sequences], model.device)
    try:
        return packing.packed_logits(model, layout, ids, positions, range(len(ids)))
    finally:
        model.set_attn_implementation(own)


def _masked_probe(model: Any, sequences: Sequence[list[int]]) -> torch.Tensor:  # Any: see above
    """Logits of all tokens, the second sequence grown as a branch of the first.

    Columns of others stand between the branch and where it leaves the first: a model that counts
    distance in columns, not in positions, shows.
    """
    first, second = sequences
    tree = Tree(model, 1, is_packed=False)
    logits_NV = tree.read(slice(0, 1), [first], [range(len(first))])
    tree.seal(len(first))
    shared = sum(a == b for a, b in zip(first, second, strict=False))
    rows = [
        tree.open([[(0, second), (shared, second[shared:end])]])[0][1:]
        for end in range(shared + 1, len(second) + 1)
    ]
    return torch.cat([logits_NV, logits_NV[:shared], *rows])
