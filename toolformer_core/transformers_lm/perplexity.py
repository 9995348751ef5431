"""Language modelling with calls disabled (paper, section 4.3): losses of given tokens.

Choice: disabled means the plain likelihood of a text, "[" included. The paper forbids <API> while
decoding and does not say what that does to likelihoods; without "[" a text that has one would have
none. A long text is cut into windows as by lm-evaluation-harness, but read as it is: the harness's
own task wikitext detokenises first.

Shape legend: B batch, T tokens, N predicted tokens of all windows, V vocabulary.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from toolformer_core.transformers_lm import packing as packing
from toolformer_core.transformers_lm.memory import release_memory
from toolformer_core.transformers_lm.model import HEAD_CHUNK, HFModel
from toolformer_core.transformers_lm.probe import Way

_MAX_PREDICTED = 2048  # tokens through the vocabulary head in one forward pass


class Window(NamedTuple):
    """Tokens that go into the model, and the tokens to be predicted after the last of them.

    The last len(predicted) tokens of `seen` stand one place before those of `predicted`.
    """

    seen: Sequence[int]
    predicted: Sequence[int]


class WindowLoss(NamedTuple):
    """Negative log-likelihood of the predicted tokens, and whether each was the likeliest."""

    nats: float
    is_greedy: bool


def rolling_losses(
    lm: HFModel, texts: Sequence[str], context_tokens: int
) -> list[tuple[float, int]]:
    """Negative log-likelihood of each text, in nats, and how many tokens it has.

    Windows are `context_tokens` long, or as long as the model's context where that is shorter.
    """
    size = min(context_tokens, lm.context_tokens)
    token_ids = [lm.encode(text) for text in texts]
    windows = [[*rolling_windows(ids, lm.document_start_id, size)] for ids in token_ids]
    losses = iter(window_losses(lm, [*itertools.chain.from_iterable(windows)]))
    return [
        (math.fsum(next(losses).nats for _ in of_text), len(ids))
        for of_text, ids in zip(windows, token_ids, strict=True)
    ]


def rolling_windows(
    token_ids: Sequence[int], start_id: int, context_tokens: int
) -> Iterator[Window]:
    """Windows in which every token of a text is predicted exactly once.

    Each starts with the token before its first, the first window with the start token. Choice:
    the last window is filled up with tokens before it, as lm-evaluation-harness does.
    """
    started = [start_id, *token_ids]
    for first in range(0, len(token_ids), context_tokens):
        last = min(first + context_tokens, len(token_ids))
        yield Window(started[max(0, last - context_tokens) : last], token_ids[first:last])


@torch.inference_mode()
def window_losses(lm: HFModel, windows: Sequence[Window]) -> list[WindowLoss]:
    """The loss of each window, computed in float32 from the model's logits."""
    release_memory()
    found: dict[int, WindowLoss] = {}
    for bucket in lm.batches([len(window.seen) for window in windows]):
        most = max(1, max(len(windows[k].predicted) for k in bucket))
        num_rows = max(1, _MAX_PREDICTED // most)
        for start in range(0, len(bucket), num_rows):
            batch = bucket[start : start + num_rows]
            found.update(zip(batch, _batch_losses(lm, [windows[k] for k in batch]), strict=True))
    return [found[k] for k in range(len(windows))]


def _batch_losses(lm: HFModel, batch: Sequence[Window]) -> Iterator[WindowLoss]:
    """The losses of windows that go through the model together."""
    logits_NV = (_packed_logits if lm.way is Way.PACKED else _padded_logits)(lm, batch)
    targets = [i for w in batch for i in w.predicted]
    targets_N = torch.tensor(targets, dtype=torch.long, device=lm.device)
    nll, is_greedy = list[float](), list[bool]()
    for some_NV, some_N in zip(
        torch.split(logits_NV, HEAD_CHUNK), torch.split(targets_N, HEAD_CHUNK), strict=True
    ):
        exact_NV = some_NV.float()
        nll += torch.nn.functional.cross_entropy(exact_NV, some_N, reduction="none").tolist()
        is_greedy += (exact_NV.argmax(-1) == some_N).tolist()
    ends = [*itertools.accumulate((len(w.predicted) for w in batch), initial=0)]
    for start, end in itertools.pairwise(ends):
        yield WindowLoss(math.fsum(nll[start:end]), all(is_greedy[start:end]))


def _packed_logits(lm: HFModel, batch: Sequence[Window]) -> torch.Tensor:
    """Logits before each predicted token [N, V], all windows as one row."""
    ends = itertools.accumulate(len(w.seen) for w in batch)
    return packing.packed_logits(
        lm.model,
        packing.Separate([len(w.seen) for w in batch], lm.device),
        [i for w in batch for i in w.seen],
        [p for w in batch for p in range(len(w.seen))],
        [n for e, w in zip(ends, batch, strict=True) for n in range(e - len(w.predicted), e)],
    )


def _padded_logits(lm: HFModel, batch: Sequence[Window]) -> torch.Tensor:
    """Logits before each predicted token [N, V], from rows padded on the left."""
    ids_BT, mask_BT = lm.pad_left([[*w.seen] for w in batch])
    logits_BTV = lm.model(
        input_ids=ids_BT,
        attention_mask=mask_BT,
        position_ids=(mask_BT.cumsum(1) - 1).clamp(min=0),
        logits_to_keep=max(len(w.predicted) for w in batch),
        use_cache=False,
    ).logits
    return torch.cat(
        [
            logits_TV[logits_TV.shape[0] - len(w.predicted) :]
            for logits_TV, w in zip(logits_BTV, batch, strict=True)
        ]
    )
