"""Which way a model can be run, found out by trying.

A way is taken if its logits on two short sequences are those of plain passes. Trying tells nothing
of attention that looks back only so far: such a model is run the slow way, unless it looks back so
far that sequences can be kept shorter.

Shape legend: N tokens of both sequences, V vocabulary.
"""

import logging
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import torch
from transformers import DynamicCache

from toolformer_core.transformers_lm import packing as packing
from toolformer_core.transformers_lm.tree import Opening, Tree

_LOGGER = logging.getLogger(__name__)

_LONG_WINDOW = 2048  # tokens; sequences need not be longer
_WINDOWS = ("sliding_window", "window_size", "attention_chunk_size")
_MISFITS = (AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError)
"""What a model raises that does not take our masks, layouts or caches."""

Sequences = tuple[list[int], list[int]]
"""Token ids of two sequences of unlike length with the same beginning."""


class Way(Enum):
    """How sequences go through a model, the fastest first."""

    PACKED = "packed"  # many as one row of tokens; trees of many documents
    MASKED = "masked"  # trees of one document under a 4-D mask; padded rows
    COPIED = "copied"  # every continuation a padded row, with a cache
    WHOLE = "whole"  # rows of equal length, read anew for each token


def context_tokens(config: Any) -> int:  # Any: transformers has no common typed base
    """Longest sequence that a model takes; where it looks back far, but not all the way, that."""
    window = _local_window(config)
    limits = [getattr(config, "max_position_embeddings", None)]
    limits += [window] if window and window >= _LONG_WINDOW else []
    return min((int(limit) for limit in limits if limit), default=1 << 20)


def _local_window(config: Any) -> int | None:  # Any: as above
    """How far the most short-sighted layer looks back; None if all look back all the way."""
    layers = getattr(config, "layer_types", None)
    if layers is not None and all(kind == "full_attention" for kind in layers):
        return None
    windows = (getattr(config, name, None) for name in _WINDOWS)
    return min((w for w in windows if isinstance(w, int) and w > 0), default=None)


@torch.inference_mode()
def find_way(model: Any, sequences: Sequences) -> Way:  # Any: as above
    """The fastest way that gives the model's own logits; a slow one is warned of.

    A model that can be packed has packed attention from then on.
    """
    window = _local_window(model.config.get_text_config())
    plain_NV = torch.cat(
        [
            model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0]
            for ids in sequences
        ]
    ).float()
    if window is None or window >= _LONG_WINDOW:
        if packing.supports(model) and _takes_packed(model, sequences, plain_NV):
            return Way.PACKED
        if _agrees(lambda: _tree_probe(model, sequences, is_packed=False), plain_NV):
            return Way.MASKED
    _LOGGER.warning(
        "%s does not take a 4-D attention mask of ours: every continuation is decoded as a copy of "
        "its document, which is several times slower",
        type(model).__name__,
    )
    return Way.COPIED if _agrees(lambda: _padded_probe(model, sequences), plain_NV) else Way.WHOLE


def _takes_packed(model: Any, sequences: Sequences, plain_NV: torch.Tensor) -> bool:  # Any: above
    """Whether packed attention serves, apart and in trees; if not, the model's own comes back."""
    own = packing.install(model)
    probes: tuple[Callable[[], torch.Tensor], ...] = (
        lambda: _packed_probe(model, sequences),
        lambda: _tree_probe(model, sequences, is_packed=True),
    )
    if all(_agrees(probe, plain_NV) for probe in probes):
        return True
    model.set_attn_implementation(own)
    return False


def _agrees(probe: Callable[[], torch.Tensor], plain_NV: torch.Tensor) -> bool:
    """Whether the probe's logits are those of plain passes."""
    try:
        logits_NV = probe()
    except _MISFITS as error:
        _LOGGER.info("refused: %s", error)
        return False
    is_finite_NV = plain_NV.isfinite()  # a model's own broken logits tell nothing
    if not is_finite_NV.any():
        return True
    difference = (logits_NV.float() - plain_NV)[is_finite_NV].abs().mean()
    # Rounding in bfloat16 moves logits by about a hundredth of their spread.
    tolerance = 0.05 if logits_NV.dtype.itemsize < 4 else 1e-3
    return bool(difference < tolerance * plain_NV[is_finite_NV].std())


def _packed_probe(model: Any, sequences: Sequences) -> torch.Tensor:  # Any: as above
    """Logits of all tokens, the sequences packed."""
    ids = [i for sequence in sequences for i in sequence]
    positions = [p for sequence in sequences for p in range(len(sequence))]
    layout = packing.Separate([len(sequence) for sequence in sequences], model.device)
    return packing.packed_logits(model, layout, ids, positions, range(len(ids)))


def _tree_probe(model: Any, sequences: Sequences, *, is_packed: bool) -> torch.Tensor:  # Any: above
    """Logits of all tokens, the second sequence grown as a branch of the first.

    Columns of others stand between the branch and where it leaves the first: a model that counts
    distance in columns, not in positions, shows.
    """
    first, second = sequences
    tree = Tree(model, 1, is_packed=is_packed)
    logits_NV = tree.read(slice(0, 1), [first], [range(len(first))])
    tree.seal(len(first))
    shared = sum(a == b for a, b in zip(first, second, strict=False))
    rows = [
        tree.open([[Opening(0, second), Opening(shared, second[shared:end])]])[0][1:]
        for end in range(shared + 1, len(second) + 1)
    ]
    return torch.cat([logits_NV, logits_NV[:shared], *rows])


def _padded_probe(model: Any, sequences: Sequences) -> torch.Tensor:  # Any: as above
    """Logits of all tokens, the rows padded in front, the last token fed behind a cache."""
    ids_BT, mask_BT = pad_left(sequences, sequences[0][0], model.device)
    positions_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config)
    logits = []
    for part in (slice(0, -1), slice(-1, None)):
        output = model(
            input_ids=ids_BT[:, part],
            attention_mask=mask_BT[:, : (part.stop or ids_BT.shape[1])],
            position_ids=positions_BT[:, part],
            past_key_values=cache,
            use_cache=True,
        )
        logits.append(output.logits)
    cache.batch_select_indices(torch.tensor([0, 1], device=model.device))
    logits_BTV = torch.cat(logits, dim=1)
    return torch.cat(
        [row_TV[-len(ids) :] for row_TV, ids in zip(logits_BTV, sequences, strict=True)]
    )


def pad_left(
    rows: Sequence[list[int]], padding: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask [B, T], padded in front."""
    longest = max(len(row) for row in rows)
    ids = [[padding] * (longest - len(row)) + row for row in rows]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
