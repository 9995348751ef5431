"""A transformers causal language model as the `LanguageModel` of the method.

Reading: the few-shot head of P(x) is run once and its key/value cache shared by all documents.
One forward over x, the tail and x again gives p_i for every position at once.

Continuing: all continuations of a document decode together as one tree. The document's cache is
not copied: each step feeds one token of every live continuation as one sequence, under a 4-D mask
that lets a continuation see the document up to its own position i and its own tokens.

Losses: rows end with the scored tokens and are padded on the left, so that only the last few
positions go through the vocabulary head.

Shape legend: B batch, T tokens, Q query tokens, K key tokens, V vocabulary.
"""

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from transformers import DynamicCache

from toolformer_core.lm import (
    AnnotationPrompt,
    Continuation,
    ContinuationRequest,
    LossRequest,
    SamplingSettings,
    TokenizedText,
)
from toolformer_core.notation import START

_HEAD_CHUNK = 128  # positions per pass through the vocabulary head


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
        self._heads: dict[str, DynamicCache] = {}

    @property
    def context_tokens(self) -> int:
        """Longest sequence the model takes."""
        return int(getattr(self.model.config, "max_position_embeddings", 1 << 20))

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
        ids = sorted(set(self.tokenizer.get_vocab().values()))
        texts = self.tokenizer.batch_decode([[i] for i in ids])
        return tuple(i for i, text in zip(ids, texts, strict=True) if text.strip(" ") == START)

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

    def read(self, prompt: AnnotationPrompt, texts: Sequence[TokenizedText]) -> "_TreeReading":
        """Read every text as P(x) followed by x; see the module docstring."""
        return _TreeReading(self, prompt, texts)

    @torch.inference_mode()
    def token_losses(self, requests: Sequence[LossRequest]) -> list[tuple[float, ...]]:
        """Negative log-likelihoods of the asked tokens, in nats, computed in float32."""
        rows = [
            [
                self.document_start_id,
                *self.encode(request.prefix),
                *request.tokens.token_ids[: request.last],
            ]
            for request in requests
        ]
        losses: list[tuple[float, ...]] = [()] * len(requests)
        for batch in _length_buckets([len(row) for row in rows], self.token_budget):
            widths = [requests[i].last - requests[i].first for i in batch]
            nll_BT = self._last_losses([rows[i] for i in batch], max(widths))
            for index, width, nll_T in zip(batch, widths, nll_BT, strict=True):
                losses[index] = tuple(nll_T[len(nll_T) - width :]) if width else ()
        return losses

    def _last_losses(self, rows: Sequence[list[int]], width: int) -> list[list[float]]:
        """Losses of the last `width` tokens of each row; where a row has fewer, 0 in front."""
        ids_BT, mask_BT = self.pad_left(rows)
        width = min(width, ids_BT.shape[1] - 1)
        if width == 0:
            return [[] for _ in rows]
        hidden = self.model(
            input_ids=ids_BT,
            attention_mask=mask_BT,
            position_ids=(mask_BT.cumsum(1) - 1).clamp(min=0),
            logits_to_keep=width + 1,
            use_cache=False,
        )
        targets_BT = ids_BT[:, -width:]
        nll_BT = torch.cat(
            [
                torch.nn.functional.cross_entropy(
                    hidden.logits[:, a : min(a + _HEAD_CHUNK, width)].float().transpose(1, 2),
                    targets_BT[:, a : a + _HEAD_CHUNK],
                    reduction="none",
                )
                for a in range(0, width, _HEAD_CHUNK)
            ],
            dim=1,
        )
        result: list[list[float]] = nll_BT.tolist()
        return result

    def pad_left(self, rows: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and attention mask [B, T], padded in front."""
        longest = max(len(row) for row in rows)
        ids = [[self.document_start_id] * (longest - len(row)) + row for row in rows]
        mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
        return torch.tensor(ids, device=self.device), torch.tensor(mask, device=self.device)

    def head_cache(self, head: str) -> DynamicCache:
        """Key/value cache of the document start and a prompt head; copied by the caller."""
        if head not in self._heads:
            cache = DynamicCache(config=self.model.config)
            ids = torch.tensor([[self.document_start_id, *self.encode(head)]], device=self.device)
            self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            self._heads[head] = cache
        return self._heads[head]


@dataclass(slots=True)
class _Branch:
    """One live continuation of the tree."""

    row: int  # in the caller's requests
    position: int  # position id of the token to feed next
    uniforms: Callable[[], float]
    token_ids: list[int]


class _TreeReading:
    """Documents read one after the other, each with its own cache."""

    def __init__(
        self, lm: HFLanguageModel, prompt: AnnotationPrompt, texts: Sequence[TokenizedText]
    ) -> None:
        self._lm = lm
        self._texts = texts
        self._caches: list[DynamicCache] = []
        probabilities = []
        with torch.inference_mode():
            for text in texts:
                cache, start_T = self._read_one(prompt, text)
                self._caches.append(cache)
                probabilities.append(tuple(start_T.tolist()))
        self.start_probabilities: tuple[tuple[float, ...], ...] = tuple(probabilities)

    def _read_one(
        self, prompt: AnnotationPrompt, text: TokenizedText
    ) -> tuple[DynamicCache, torch.Tensor]:
        """The cache after P(x) x, and p_i for i = 0..n."""
        lm = self._lm
        cache = copy.deepcopy(lm.head_cache(prompt.head))
        ids = [*text.token_ids, *lm.encode(prompt.tail), *text.token_ids]
        num_positions = len(text.token_ids) + 1
        output = lm.model(
            input_ids=torch.tensor([ids], device=lm.device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=num_positions,
        )
        start_ids = torch.tensor(lm.start_ids, device=lm.device)
        chunks = []
        for first in range(0, num_positions, _HEAD_CHUNK):
            logits_TV = output.logits[0, first : first + _HEAD_CHUNK].float()
            log_total_T = logits_TV.logsumexp(-1, keepdim=True)
            chunks.append((logits_TV[:, start_ids] - log_total_T).exp().sum(-1))
        return cache, torch.cat(chunks)

    @torch.inference_mode()
    def continuations(
        self, requests: Sequence[ContinuationRequest], settings: SamplingSettings
    ) -> list[Continuation]:
        """One sampled continuation per request; all of one document decode together."""
        results: list[Continuation | None] = [None] * len(requests)
        for document_index in sorted({request.document_index for request in requests}):
            rows = [i for i, r in enumerate(requests) if r.document_index == document_index]
            for row, result in self._continue_document(document_index, rows, requests, settings):
                results[row] = result
        return [result for result in results if result is not None]

    def _continue_document(
        self,
        document_index: int,
        rows: Sequence[int],
        requests: Sequence[ContinuationRequest],
        settings: SamplingSettings,
    ) -> Iterator[tuple[int, Continuation]]:
        """Decode the tree of one document; yields each continuation as it ends."""
        lm = self._lm
        cache = copy.deepcopy(self._caches[document_index])
        num_tokens = len(self._texts[document_index].token_ids)
        offset = cache.get_seq_length() - num_tokens
        tree = _Tree(lm, cache)
        logits_BV = tree.open(
            [(offset + requests[row].token_index, requests[row].start) for row in rows]
        )
        live = [
            _Branch(row, tree.next_positions[k], random.Random(requests[row].seed).random, [])
            for k, row in enumerate(rows)
        ]
        while live:
            tokens = _draw(logits_BV, [branch.uniforms() for branch in live], settings)
            survivors = []
            for k, (branch, token) in enumerate(zip(live, tokens, strict=True)):
                branch.token_ids.append(token)
                ended = self._ended(branch.token_ids, settings)
                if ended is None:
                    survivors.append(k)
                else:
                    yield branch.row, ended
            live = [live[k] for k in survivors]
            if live:
                logits_BV = tree.grow(survivors, [branch.token_ids[-1] for branch in live])

    def _ended(self, token_ids: list[int], settings: SamplingSettings) -> Continuation | None:
        """The continuation if its last token ends it, else None."""
        text = self._lm.tokenizer.decode(token_ids)
        if settings.stop in text:
            return Continuation(text=text.split(settings.stop, 1)[0], is_closed=True)
        is_over = token_ids[-1] == self._lm.tokenizer.eos_token_id
        if is_over or len(token_ids) >= settings.max_tokens:
            return Continuation(text=text, is_closed=False)
        return None


class _Tree:
    """A document's cache with branches growing from it; one column of keys per fed token."""

    def __init__(self, lm: HFLanguageModel, cache: DynamicCache) -> None:
        self._lm = lm
        self._cache = cache
        self._visible_BK = torch.zeros(0, 0, dtype=torch.bool)
        self.next_positions: list[int] = []

    def open(self, starts: Sequence[tuple[int, str]]) -> torch.Tensor:
        """Feed the opening tokens, equal ones once; logits after each branch's opening [B, V]."""
        length = self._cache.get_seq_length()
        nodes = list(dict.fromkeys(starts))
        openings = [self._lm.encode(start) for _, start in nodes]
        total = sum(len(opening) for opening in openings)
        visible_QK = torch.zeros(total, length + total, dtype=torch.bool)
        positions: list[int] = []
        last: dict[tuple[int, str], int] = {}
        for node, opening in zip(nodes, openings, strict=True):
            first = len(positions)
            for step in range(len(opening)):
                visible_QK[first + step, : node[0]] = True
                visible_QK[first + step, length + first : length + first + step + 1] = True
                positions.append(node[0] + step)
            last[node] = len(positions) - 1
        logits_QV = self._forward([i for o in openings for i in o], positions, visible_QK)
        ends = [last[start] for start in starts]
        self._visible_BK = visible_QK[ends]
        self.next_positions = [positions[end] + 1 for end in ends]
        return logits_QV[ends]

    def grow(self, survivors: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
        """Feed one token to each surviving branch; logits after it [B, V]."""
        own = torch.eye(len(survivors), dtype=torch.bool)
        self._visible_BK = torch.cat([self._visible_BK[list(survivors)], own], dim=1)
        positions = [self.next_positions[k] for k in survivors]
        self.next_positions = [position + 1 for position in positions]
        return self._forward(tokens, positions, self._visible_BK)

    def _forward(
        self, tokens: Sequence[int], positions: Sequence[int], visible_QK: torch.Tensor
    ) -> torch.Tensor:
        model, device = self._lm.model, self._lm.device
        blocked = torch.finfo(model.dtype).min
        mask_QK = torch.zeros(visible_QK.shape, dtype=model.dtype)
        mask_QK.masked_fill_(~visible_QK, blocked)
        output = model(
            input_ids=torch.tensor([list(tokens)], device=device),
            position_ids=torch.tensor([list(positions)], device=device),
            attention_mask=mask_QK[None, None].to(device),
            past_key_values=self._cache,
            use_cache=True,
        )
        logits_QV: torch.Tensor = output.logits[0]
        return logits_QV


def _draw(
    logits_BV: torch.Tensor, uniforms: Sequence[float], settings: SamplingSettings
) -> list[int]:
    """One token per row by inverting the cumulative distribution at the row's uniform number."""
    if settings.temperature == 0:
        greedy: list[int] = logits_BV.argmax(-1).tolist()
        return greedy
    weights_BV = torch.softmax(logits_BV.float() / settings.temperature, dim=-1)
    if settings.top_p < 1:
        weights_BV = _nucleus(weights_BV, settings.top_p)
    cumulative_BV = weights_BV.cumsum(-1)
    targets_B1 = torch.tensor(uniforms, device=logits_BV.device)[:, None] * cumulative_BV[:, -1:]
    tokens_B1 = torch.searchsorted(cumulative_BV, targets_B1, right=True)
    tokens: list[int] = tokens_B1.clamp(max=logits_BV.shape[1] - 1)[:, 0].tolist()
    return tokens


def _nucleus(weights_BV: torch.Tensor, top_p: float) -> torch.Tensor:
    """The probabilities of the fewest tokens whose mass reaches top_p; the others 0."""
    sorted_BV, order_BV = weights_BV.sort(dim=-1, descending=True)
    mass_before_BV = sorted_BV.cumsum(-1) - sorted_BV
    kept_BV = sorted_BV.masked_fill(mass_before_BV >= top_p, 0.0)
    return torch.zeros_like(weights_BV).scatter(1, order_BV, kept_BV)


def _length_buckets(lengths: Sequence[int], token_budget: int) -> Iterator[list[int]]:
    """Indices in batches of similar length whose padded size stays within the budget."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if batch and (len(batch) + 1) * lengths[index] > token_budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
