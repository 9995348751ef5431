"""Packed forward passes: many sequences as one row of tokens, without a padding token.

All layers but attention treat every token alike, so they run over the real tokens of all sequences
at once. Attention, the one place that must tell sequences apart, is given by a `Layout` through
transformers' attention interface: it spreads the row out to a padded batch and gathers it again.
Outside of `packed_logits` a model with this attention behaves as with transformers' own.

Shape legend: B sequences, T tokens of the longest, N tokens of all, H heads, D head size,
V vocabulary.
"""

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any, Protocol

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from toolformer_core.transformers_lm.attention import causal_attention

_NAME = "toolformer_packed"
_UNSUPPORTED = ("softcap", "s_aux", "position_bias")  # a model's own changes to attention


class Layout(Protocol):
    """Attention over one row of tokens."""

    def attend(
        self,
        layer: int,
        query_NHD: torch.Tensor,
        key_NHD: torch.Tensor,
        value_NHD: torch.Tensor,
        scaling: float | None,
    ) -> torch.Tensor:
        """What attention gives for each token [N, H, D]; keys and values may have fewer heads."""


_LAYOUT: ContextVar[Layout | None] = ContextVar("layout", default=None)


def supports(model: Any) -> bool:  # Any: transformers has no common typed base
    """Whether the model's attention can be replaced at all."""
    return bool(getattr(model, "_supports_attention_backend", False))


def install(model: Any) -> str:  # Any: as above
    """Give the model packed attention; the name of what it had before."""
    AttentionInterface.register(_NAME, _attention)
    AttentionMaskInterface.register(_NAME, sdpa_mask)
    before: str = model.config._attn_implementation
    model.set_attn_implementation(_NAME)
    return before


def packed_logits(
    model: Any,  # Any: as above
    layout: Layout,
    token_ids: Sequence[int],
    position_ids: Sequence[int],
    keep: Sequence[int],
) -> torch.Tensor:
    """Logits after the tokens with the indices `keep` [len(keep), V].

    Raises: ValueError if the model's attention has a part that packing does not know.
    """
    device = model.device
    token = _LAYOUT.set(layout)
    try:
        output = model(
            input_ids=torch.tensor([list(token_ids)], device=device),
            position_ids=torch.tensor([list(position_ids)], device=device),
            # A 4-D mask is handed through as it is: nothing is built, and the layout needs none.
            attention_mask=torch.zeros(1, 1, 1, 1, device=device),
            use_cache=False,
            logits_to_keep=torch.tensor(list(keep), dtype=torch.long, device=device),
        )
    finally:
        _LAYOUT.reset(token)
    logits_KV: torch.Tensor = output.logits[0]
    return logits_KV


def _attention(
    module: Any,  # Any: an attention module
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **settings: Any,  # Any: what each kind of model passes
) -> tuple[torch.Tensor, None]:
    layout = _LAYOUT.get()
    if layout is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    unknown = [name for name in _UNSUPPORTED if settings.get(name) is not None]
    if unknown:
        raise ValueError(f"packed attention has no {', '.join(unknown)}")
    query_NHD, key_NHD, value_NHD = (x[0].transpose(0, 1) for x in (query, key, value))
    scaling = settings.get("scaling")
    return layout.attend(module.layer_idx, query_NHD, key_NHD, value_NHD, scaling)[None], None


class Slots:
    """Where the tokens of a row lie in a padded batch [B, T]; good for one forward pass."""

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        self.num_sequences = len(lengths)
        self.longest = max(lengths)
        self._is_full = min(lengths) == self.longest
        starts = range(0, len(lengths) * self.longest, self.longest)
        flat = [s + t for s, n in zip(starts, lengths, strict=True) for t in range(n)]
        self._flat_N = torch.tensor(flat, device=device)
        self._padded: dict[str, torch.Tensor] = {}

    def spread(self, x_NHD: torch.Tensor, name: str) -> torch.Tensor:
        """The tokens as a batch [B, H, T, D], zeros in the gaps.

        The next layer writes over what has the same name: the gaps need to be cleared only once.
        """
        shape = (self.num_sequences, self.longest, *x_NHD.shape[1:])
        if self._is_full:
            return x_NHD.reshape(shape).transpose(1, 2)
        if name not in self._padded:
            self._padded[name] = x_NHD.new_zeros(shape[0] * shape[1], *shape[2:])
        self._padded[name].index_copy_(0, self._flat_N, x_NHD)
        return self._padded[name].view(shape).transpose(1, 2)

    def gather(self, x_BHTD: torch.Tensor) -> torch.Tensor:
        """The batch as one row of tokens again [N, H, D]."""
        x_padded = x_BHTD.transpose(1, 2).flatten(0, 1)
        return x_padded if self._is_full else x_padded[self._flat_N]


class Separate:
    """Layout of sequences that have nothing to do with one another."""

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        self._slots = Slots(lengths, device)

    def attend(
        self,
        layer: int,
        query_NHD: torch.Tensor,
        key_NHD: torch.Tensor,
        value_NHD: torch.Tensor,
        scaling: float | None,
    ) -> torch.Tensor:
        """Causal attention within each sequence; padding stands behind what looks back."""
        attended_BHTD = causal_attention(
            self._slots.spread(query_NHD, "query"),
            self._slots.spread(key_NHD, "key"),
            self._slots.spread(value_NHD, "value"),
            scaling,
            0,
        )
        return self._slots.gather(attended_BHTD)
