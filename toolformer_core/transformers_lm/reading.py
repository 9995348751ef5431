"""Documents read under an annotation prompt, continued as trees or, failing that, as copies.

Shape legend: B documents, S slots (live branches of a document), K columns of keys, V vocabulary.
"""

import itertools
import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from transformers import DynamicCache

from toolformer_core.lm import (
    AnnotationPrompt,
    Continuation,
    ContinuationRequest,
    SamplingSettings,
    TokenizedText,
)
from toolformer_core.transformers_lm.drawing import Ending, draw
from toolformer_core.transformers_lm.model import HEAD_CHUNK, HFModel
from toolformer_core.transformers_lm.probe import Way
from toolformer_core.transformers_lm.tree import Opening, Tree

_MAX_SLOTS = 32  # branches of a document at a time: more would look past more columns of others


@dataclass(slots=True)
class _Branch:
    """One live continuation."""

    request_index: int
    opening_end: int  # position id of the last token of its opening
    random: random.Random
    token_ids: list[int] = field(default_factory=list)


class TreeReading:
    """Documents in trees: one for all where passes are packed, else one for each."""

    def __init__(
        self,
        lm: HFModel,
        prompt: AnnotationPrompt,
        texts: Sequence[TokenizedText],
        places: Sequence[Collection[int]],
    ) -> None:
        self._lm = lm
        tail = lm.encode(prompt.tail)
        rows = [[*text.token_ids, *tail, *text.token_ids] for text in texts]
        self._offsets = [len(text.token_ids) + len(tail) for text in texts]
        per_tree = len(texts) if lm.way is Way.PACKED else 1
        self._documents = [
            range(first, min(first + per_tree, len(texts)))
            for first in range(0, len(texts), max(per_tree, 1))
        ]
        self._trees: list[Tree] = []
        self.start_probabilities: list[dict[int, float]] = []
        with torch.inference_mode():
            self._head = lm.head_tree(prompt.head)
            for documents in self._documents:
                part = slice(documents.start, documents.stop)
                self.start_probabilities += self._plant(rows[part], places[part])

    def _plant(
        self, rows: Sequence[list[int]], places: Sequence[Collection[int]]
    ) -> Iterator[dict[int, float]]:
        """A tree over the next documents; yields p_i of each."""
        lm, longest = self._lm, max(map(len, rows))
        tree = Tree(lm.model, len(rows), is_packed=lm.way is Way.PACKED, head=self._head)
        first = len(self.start_probabilities)
        for batch in _consecutive([len(row) for row in rows], lm.token_budget):
            part = slice(batch.start, batch.stop)
            # Before the second x_i+1 stands token offset + i, and its logits decide p_i.
            before = [[self._offsets[first + k] - 1 + i for i in places[k]] for k in batch]
            logits_NV = tree.read(part, rows[part], before)
            found = iter(start_probabilities(logits_NV, lm.start_ids))
            yield from ({i: next(found) for i in places[k]} for k in batch)
        tree.seal(longest)
        self._trees.append(tree)

    @torch.inference_mode()
    def continuations(
        self, requests: Sequence[ContinuationRequest], settings: SamplingSettings
    ) -> list[Continuation]:
        """One sampled continuation per request; those of all documents decode together."""
        found: dict[int, Continuation] = {}
        for tree, documents in zip(self._trees, self._documents, strict=True):
            asked = [
                [k for k, r in enumerate(requests) if r.document_index == document]
                for document in documents
            ]
            used = tree.columns.used
            for first in range(0, max(map(len, asked)), _MAX_SLOTS):
                wave = [row[first : first + _MAX_SLOTS] for row in asked]
                found |= self._decode(tree, wave, requests, settings)
                tree.columns.rewind(used)
        return [found[k] for k in range(len(requests))]

    def _decode(
        self,
        tree: Tree,
        wave: Sequence[Sequence[int]],
        requests: Sequence[ContinuationRequest],
        settings: SamplingSettings,
    ) -> dict[int, Continuation]:
        """Decode one wave of requests, given by row."""
        found: dict[int, Continuation] = {}
        ending = Ending(self._lm.tokenizer, settings)
        live, slots, mask_BQK, logits_NV = self._open(tree, wave, requests)
        while True:
            tokens = draw(logits_NV, [b.random.random() for row in live for b in row], settings)
            for branch, token in zip((b for row in live for b in row), tokens, strict=True):
                branch.token_ids.append(token)
                ended = ending.of(branch.token_ids)
                if ended is not None:
                    found[branch.request_index] = ended
            going_on = [[s for s, b in enumerate(r) if b.request_index not in found] for r in live]
            slots = [[row[s] for s in kept] for row, kept in zip(slots, going_on, strict=True)]
            live = [[row[s] for s in kept] for row, kept in zip(live, going_on, strict=True)]
            if not any(live):
                return found
            mask_BQK = tree.next_mask(mask_BQK, slots)
            logits_NV = tree.grow(
                [[b.token_ids[-1] for b in row] for row in live],
                [[b.opening_end + len(b.token_ids) for b in row] for row in live],
                mask_BQK,
            )
            slots = [list(range(len(row))) for row in live]

    def _open(
        self,
        tree: Tree,
        wave: Sequence[Sequence[int]],
        requests: Sequence[ContinuationRequest],
    ) -> tuple[list[list[_Branch]], list[list[int]], torch.Tensor, torch.Tensor]:
        """Feed the openings, equal ones of a row once.

        Branches by row, the query that each goes on from, the mask of all queries [B, Q, K], and
        the logits after each branch's opening [N, V].
        """
        offsets = [self._head.columns.used + o for o in self._offsets_of(tree)]
        nodes = [list(dict.fromkeys(_node(requests[k]) for k in asked)) for asked in wave]
        openings = [
            [Opening(offset + token_index, self._lm.encode(start)) for token_index, start in row]
            for offset, row in zip(offsets, nodes, strict=True)
        ]
        logits_NV, mask_BQK = tree.open(openings)
        live, slots, sources = [], [], []
        num_nodes = 0
        for asked, row, opened in zip(wave, nodes, openings, strict=True):
            ends = list(itertools.accumulate(len(opening.token_ids) for opening in opened))
            chosen = [row.index(_node(requests[k])) for k in asked]
            live.append(
                [
                    _Branch(
                        k,
                        opened[n].position + len(opened[n].token_ids) - 1,
                        random.Random(requests[k].seed),
                    )
                    for k, n in zip(asked, chosen, strict=True)
                ]
            )
            slots.append([ends[n] - 1 for n in chosen])
            sources += [num_nodes + n for n in chosen]
            num_nodes += len(row)
        return live, slots, mask_BQK, logits_NV[sources]

    def _offsets_of(self, tree: Tree) -> list[int]:
        """Tokens of x and the tail before the second x, for each row of a tree."""
        documents = self._documents[self._trees.index(tree)]
        return self._offsets[documents.start : documents.stop]


def _node(request: ContinuationRequest) -> tuple[int, str]:
    return request.token_index, request.start


class CopiedReading:
    """For a model that takes no 4-D mask: every continuation is a row with all of its tokens."""

    def __init__(
        self,
        lm: HFModel,
        prompt: AnnotationPrompt,
        texts: Sequence[TokenizedText],
        places: Sequence[Collection[int]],
    ) -> None:
        self._lm = lm
        head, tail = lm.encode(prompt.head), lm.encode(prompt.tail)
        self._before = [[lm.document_start_id, *head, *x.token_ids, *tail] for x in texts]
        self._texts = texts
        self.start_probabilities = [
            self._probabilities(k, wanted) for k, wanted in enumerate(places)
        ]

    @torch.inference_mode()
    def _probabilities(self, document_index: int, places: Collection[int]) -> dict[int, float]:
        token_ids = self._texts[document_index].token_ids
        ids = [*self._before[document_index], *token_ids]
        output = self._lm.model(
            input_ids=torch.tensor([ids], device=self._lm.device),
            logits_to_keep=len(token_ids) + 1,
            use_cache=False,
        )
        wanted = torch.tensor(list(places), dtype=torch.long, device=self._lm.device)
        found = start_probabilities(output.logits[0, wanted], self._lm.start_ids)
        return dict(zip(places, found, strict=True))

    @torch.inference_mode()
    def continuations(
        self, requests: Sequence[ContinuationRequest], settings: SamplingSettings
    ) -> list[Continuation]:
        """One sampled continuation per request, in batches within the token budget."""
        rows = [
            [
                *self._before[r.document_index],
                *self._texts[r.document_index].token_ids[: r.token_index],
                *self._lm.encode(r.start),
            ]
            for r in requests
        ]
        found: dict[int, Continuation] = {}
        for batch in self._lm.batches([len(row) for row in rows]):
            found |= self._decode(batch, [rows[k] for k in batch], requests, settings)
        return [found[k] for k in range(len(requests))]

    def _decode(
        self,
        batch: Sequence[int],
        rows: Sequence[list[int]],
        requests: Sequence[ContinuationRequest],
        settings: SamplingSettings,
    ) -> dict[int, Continuation]:
        lm, found = self._lm, dict[int, Continuation]()
        ending = Ending(lm.tokenizer, settings)
        live = [_Branch(k, 0, random.Random(requests[k].seed)) for k in batch]
        ids_BT, mask_BT = lm.pad_left(rows)
        cache = None if lm.way is Way.WHOLE else DynamicCache(config=lm.model.config)
        while True:
            output = lm.model(
                input_ids=ids_BT,
                attention_mask=mask_BT,
                position_ids=(mask_BT.cumsum(1) - 1).clamp(min=0)[:, -ids_BT.shape[1] :],
                past_key_values=cache,
                use_cache=cache is not None,
                logits_to_keep=1,
            )
            tokens = draw(output.logits[:, -1], [b.random.random() for b in live], settings)
            for branch, token in zip(live, tokens, strict=True):
                branch.token_ids.append(token)
                ended = ending.of(branch.token_ids)
                if ended is not None:
                    found[branch.request_index] = ended
            kept = [k for k, branch in enumerate(live) if branch.request_index not in found]
            if not kept:
                return found
            live = [live[k] for k in kept]
            mask_BT = torch.nn.functional.pad(mask_BT[kept], (0, 1), value=1)
            last_B1 = torch.tensor([[b.token_ids[-1]] for b in live], device=lm.device)
            if cache is None:
                ids_BT = torch.cat([ids_BT[kept], last_B1], dim=1)
            else:
                cache.batch_select_indices(torch.tensor(kept, device=lm.device))
                ids_BT = last_B1


def start_probabilities(logits_TV: torch.Tensor, start_ids: Sequence[int]) -> list[float]:
    """Probability of a call's start after each token, summed over all tokens that spell it."""
    starts = torch.tensor(start_ids, device=logits_TV.device)
    chunks = []
    for chunk_TV in torch.split(logits_TV, HEAD_CHUNK):
        chunk_TV = chunk_TV.float()
        chunks.append((chunk_TV[:, starts] - chunk_TV.logsumexp(-1, keepdim=True)).exp().sum(-1))
    probabilities: list[float] = torch.cat(chunks).tolist()
    return probabilities


def _consecutive(lengths: Sequence[int], token_budget: int) -> Iterator[range]:
    """Ranges of neighbours whose total size stays within the budget."""
    first, total = 0, 0
    for index, length in enumerate(lengths):
        if index > first and total + length > token_budget:
            yield range(first, index)
            first, total = index, 0
        total += length
    yield range(first, len(lengths))
