"""Drawing the next token, and when a continuation is over.

Shape legend: B rows, V vocabulary, C chunks of the vocabulary.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch

from toolformer_core.lm import Continuation, SamplingSettings

_CHUNK = 128  # tokens of the vocabulary that are summed before the search
_ROWS = 32  # rows at a time, so that they stay in the processor's cache


def draw(
    logits_BV: torch.Tensor, uniforms: Sequence[float], settings: SamplingSettings
) -> list[int]:
    """One token per row by inverting the cumulative distribution at the row's uniform number.

    One number per row decides, so that no row depends on another and no noise is drawn for the
    whole vocabulary. The search goes over sums of chunks first, then within one chunk.
    """
    if settings.temperature == 0:
        greedy: list[int] = logits_BV.argmax(-1).tolist()
        return greedy
    uniforms_B1 = torch.tensor(uniforms, device=logits_BV.device)[:, None]
    parts = zip(torch.split(logits_BV, _ROWS), torch.split(uniforms_B1, _ROWS), strict=True)
    drawn = torch.cat([_inverse(part_BV, part_B1, settings) for part_BV, part_B1 in parts])
    tokens: list[int] = drawn.clamp(max=logits_BV.shape[1] - 1)[:, 0].tolist()
    return tokens


def _inverse(
    logits_BV: torch.Tensor, uniforms_B1: torch.Tensor, settings: SamplingSettings
) -> torch.Tensor:
    """The token at which the cumulative distribution passes the uniform number [B, 1]."""
    weights_BV = logits_BV.to(torch.float32, copy=True)
    weights_BV.sub_(weights_BV.amax(-1, keepdim=True))
    weights_BV.mul_(1 / settings.temperature).exp_()
    if settings.top_p < 1:
        weights_BV = _nucleus(weights_BV, settings.top_p)
    gap = -weights_BV.shape[1] % _CHUNK
    if gap:
        weights_BV = torch.nn.functional.pad(weights_BV, (0, gap))
    chunks_BCW = weights_BV.view(len(weights_BV), -1, _CHUNK)
    cumulative_BC = chunks_BCW.sum(-1).cumsum(-1)
    targets_B1 = uniforms_B1 * cumulative_BC[:, -1:]
    chunk_B1 = _first_above(cumulative_BC, targets_B1)
    before_B1 = torch.nn.functional.pad(cumulative_BC, (1, 0)).gather(1, chunk_B1)
    within_BW = chunks_BCW.take_along_dim(chunk_B1[:, :, None], 1)[:, 0].cumsum(-1)
    within_B1 = _first_above(within_BW, targets_B1 - before_B1)
    return chunk_B1 * _CHUNK + within_B1


def _first_above(cumulative_BN: torch.Tensor, targets_B1: torch.Tensor) -> torch.Tensor:
    """Index of the first entry above the target that adds something [B, 1].

    Rounding may put a target at or above the end; the last entry with mass is taken then.
    """
    found_B1 = torch.searchsorted(cumulative_BN, targets_B1, right=True)
    last_B1 = torch.searchsorted(cumulative_BN, cumulative_BN[:, -1:].contiguous())
    return torch.minimum(found_B1, last_B1).clamp(max=cumulative_BN.shape[1] - 1)


def _nucleus(weights_BV: torch.Tensor, top_p: float) -> torch.Tensor:
    """The weights of the fewest tokens whose share of the mass reaches top_p; the others 0."""
    sorted_BV, order_BV = weights_BV.sort(dim=-1, descending=True)
    cumulative_BV = sorted_BV.cumsum(-1)
    share_before_BV = (cumulative_BV - sorted_BV) / cumulative_BV[:, -1:]
    kept_BV = sorted_BV.masked_fill(share_before_BV >= top_p, 0.0)
    return torch.zeros_like(weights_BV).scatter(1, order_BV, kept_BV)


class Ending:
    """Tells when a continuation is over."""

    def __init__(self, tokenizer: Any, settings: SamplingSettings) -> None:  # Any: untyped
        self._tokenizer = tokenizer
        self._settings = settings
        # Only a token that holds the last character of the stop string can complete it.
        self._closers = tokens_with(tokenizer, settings.stop[-1])

    def of(self, token_ids: Sequence[int]) -> Continuation | None:
        """The continuation if its last token ends it, else None."""
        stop, decode = self._settings.stop, self._tokenizer.decode
        if token_ids[-1] in self._closers:
            text: str = decode(token_ids)
            if stop in text:
                return Continuation(text=text.split(stop, 1)[0], is_closed=True)
        is_over = token_ids[-1] == self._tokenizer.eos_token_id
        if is_over or len(token_ids) >= self._settings.max_tokens:
            return Continuation(text=decode(token_ids), is_closed=False)
        return None


@lru_cache(maxsize=8)
def tokens_with(tokenizer: Any, character: str) -> frozenset[int]:  # Any: as above
    """The tokens whose text holds the character."""
    texts = token_texts(tokenizer)
    return frozenset(i for i, text in texts.items() if character in text)


@lru_cache(maxsize=4)
def token_texts(tokenizer: Any) -> dict[int, str]:  # Any: as above
    """The text of every token of the vocabulary."""
    ids = sorted(set(tokenizer.get_vocab().values()))
    return dict(zip(ids, tokenizer.batch_decode([[i] for i in ids]), strict=True))
