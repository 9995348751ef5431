"""Attention under the masks of packed passes and trees.

On an accelerator this is torch's fused kernel. On a CPU its fused kernel reaches a fraction of the
rate of a matrix product, so there the two products are written out, over tiles small enough to stay
in the processor's cache. Query heads that share keys are taken as further queries of one head.

Shape legend: B sequences, H heads of queries, G heads of keys, Q queries, K keys, D head size.
"""

import torch
from torch.nn.functional import scaled_dot_product_attention

_TILE = 64  # queries


def causal_attention(
    query_BHQD: torch.Tensor,
    key_BGKD: torch.Tensor,
    value_BGKD: torch.Tensor,
    scaling: float | None,
    num_before: int,
) -> torch.Tensor:
    """Attention of each query to the first `num_before` keys, its own and those between."""
    if _is_on_cpu(query_BHQD):
        return _tiled_causal(query_BHQD, key_BGKD, value_BGKD, scaling, num_before)
    num_queries, num_keys = query_BHQD.shape[2], key_BGKD.shape[2]
    visible_QK: torch.Tensor | None = None
    if (num_before, num_keys) != (0, num_queries):
        everything = torch.ones(num_queries, num_keys, dtype=torch.bool, device=query_BHQD.device)
        visible_QK = everything.tril(num_before)
    return scaled_dot_product_attention(
        query_BHQD,
        key_BGKD,
        value_BGKD,
        attn_mask=visible_QK,
        is_causal=visible_QK is None,
        scale=scaling,
        enable_gqa=query_BHQD.shape[1] != key_BGKD.shape[1],
    )


def masked_attention(
    query_BHQD: torch.Tensor,
    key_BGKD: torch.Tensor,
    value_BGKD: torch.Tensor,
    mask_BQK: torch.Tensor,
    scaling: float | None,
) -> torch.Tensor:
    """Attention under an additive mask."""
    if not _is_on_cpu(query_BHQD):
        return scaled_dot_product_attention(
            query_BHQD,
            key_BGKD,
            value_BGKD,
            attn_mask=mask_BQK[:, None],
            scale=scaling,
            enable_gqa=query_BHQD.shape[1] != key_BGKD.shape[1],
        )
    query_BGSQD = _grouped(query_BHQD, key_BGKD, scaling)
    return _attend(query_BGSQD, key_BGKD, value_BGKD, mask_BQK[:, None, None], 0)


def _is_on_cpu(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "cpu"


def _tiled_causal(
    query_BHQD: torch.Tensor,
    key_BGKD: torch.Tensor,
    value_BGKD: torch.Tensor,
    scaling: float | None,
    num_before: int,
) -> torch.Tensor:
    """Tile after tile of queries against the keys that its last one sees."""
    query_BGSQD = _grouped(query_BHQD, key_BGKD, scaling)
    num_queries = query_BHQD.shape[2]
    ahead = query_BHQD.new_full((_TILE, _TILE), -torch.inf).triu_(1)
    attended = torch.empty_like(query_BHQD)
    for first in range(0, num_queries, _TILE):
        end = min(first + _TILE, num_queries)
        attended[:, :, first:end] = _attend(
            query_BGSQD[:, :, :, first:end],
            key_BGKD[:, :, : num_before + end],
            value_BGKD[:, :, : num_before + end],
            ahead[: end - first, : end - first],
            num_before + first,
        )
    return attended


def _grouped(
    query_BHQD: torch.Tensor, key_BGKD: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    """The scaled queries, those that share keys side by side [B, G, H / G, Q, D]."""
    factor = scaling if scaling is not None else query_BHQD.shape[3] ** -0.5
    num_sequences, _, num_queries, size = query_BHQD.shape
    shape = (num_sequences, key_BGKD.shape[1], -1, num_queries, size)
    return (query_BHQD * factor).reshape(shape)


def _attend(
    query_BGSQD: torch.Tensor,
    key_BGKD: torch.Tensor,
    value_BGKD: torch.Tensor,
    mask: torch.Tensor,
    first_masked: int,
) -> torch.Tensor:
    """Softmax-weighted values [B, H, Q, D]; the mask is added from a column on."""
    num_sequences, num_groups, _, num_queries, size = query_BGSQD.shape
    scores_BGRK = torch.matmul(query_BGSQD.flatten(2, 3), key_BGKD.transpose(2, 3))
    scores_BGSQK = scores_BGRK.view(num_sequences, num_groups, -1, num_queries, key_BGKD.shape[2])
    scores_BGSQK[..., first_masked:] += mask
    attended_BGRD = torch.matmul(scores_BGRK.softmax(-1), value_BGKD)
    return attended_BGRD.view(num_sequences, -1, num_queries, size)
