"""Losses behind calls that stand in their text: each text is read once, and its calls branch off.

A branch is the call z and the scored tokens behind it; it sees the text up to its own place. Where
the call stands before the text no two calls share anything, and every one reads the text anew.

Shape legend: N tokens of all branches, V vocabulary.
"""

from collections.abc import Iterator, Sequence

import torch

from toolformer_core.lm import LossRequest, TokenizedText
from toolformer_core.transformers_lm.model import HFModel, nll
from toolformer_core.transformers_lm.probe import Way
from toolformer_core.transformers_lm.tree import Opening, Tree

_MAX_BRANCHES = 8  # of a text at a time: more would look past more columns of others


@torch.inference_mode()
def branch_losses(lm: HFModel, requests: Sequence[LossRequest]) -> list[tuple[float, ...]]:
    """Negative log-likelihoods of the asked tokens, in nats, computed in float32.

    Every prefix stands behind the first token of its text, and both fit the model's context.
    """
    by_text: dict[TokenizedText, list[int]] = {}
    for k, request in enumerate(requests):
        by_text.setdefault(request.tokens, []).append(k)
    asked = list(by_text.values())
    lengths = [max(requests[k].last for k in members) for members in asked]
    found: dict[int, tuple[float, ...]] = {}
    for batch in lm.batches(lengths):
        parts = [batch] if lm.way is Way.PACKED else [[k] for k in batch]
        for part in parts:
            found |= _text_losses(lm, requests, [asked[k] for k in part])
    return [found[k] for k in range(len(requests))]


def _text_losses(
    lm: HFModel, requests: Sequence[LossRequest], asked: Sequence[Sequence[int]]
) -> dict[int, tuple[float, ...]]:
    """The losses of some texts' requests, given by text; request index to losses."""
    rows = []
    for members in asked:
        end = max(requests[k].prefix_before for k in members)
        rows.append([lm.document_start_id, *requests[members[0]].tokens.token_ids[:end]])
    tree = Tree(lm.model, len(rows), is_packed=lm.way is Way.PACKED)
    tree.read(slice(0, len(rows)), rows, [[] for _ in rows])
    tree.seal(max(map(len, rows)))
    found: dict[int, tuple[float, ...]] = {}
    used = tree.columns.used
    for first in range(0, max(map(len, asked)), _MAX_BRANCHES):
        wave = [members[first : first + _MAX_BRANCHES] for members in asked]
        branches = [[_branch(lm, requests[k]) for k in members] for members in wave]
        logits_NV, _ = tree.open(branches)
        members = [k for row in wave for k in row]
        losses = _split_losses(logits_NV, [requests[k] for k in members])
        found |= dict(zip(members, losses, strict=True))
        tree.columns.rewind(used)
    return found


def _branch(lm: HFModel, request: LossRequest) -> Opening:
    """The call and the tokens behind it, but for the last, which nothing is asked behind."""
    at, token_ids = request.prefix_before, request.tokens.token_ids
    ids = [*lm.encode(request.prefix), *token_ids[at : request.last - 1]]
    return Opening(1 + at, ids, num_kept=request.last - request.first)


def _split_losses(
    logits_NV: torch.Tensor, requests: Sequence[LossRequest]
) -> Iterator[tuple[float, ...]]:
    """The losses of each request, whose logits lie behind one another."""
    losses = iter(
        nll(logits_NV, [i for r in requests for i in r.tokens.token_ids[r.first : r.last]])
    )
    return (tuple(next(losses) for _ in range(r.first, r.last)) for r in requests)
