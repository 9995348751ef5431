"""Both ways of computing attention against softmax written out for one query at a time."""

import pytest
import torch

from toolformer_core.transformers_lm import attention as attention

SHAPES = [(2, 4, 2, 70, 0), (1, 6, 2, 3, 5), (3, 2, 2, 130, 17), (1, 4, 1, 64, 64)]
"""Sequences, query heads, key heads, queries, keys before them."""


def inputs(shape):
    torch.manual_seed(0)
    num_sequences, heads, key_heads, queries, before = shape
    query = torch.randn(num_sequences, heads, queries, 8, dtype=torch.float64)
    spare = 4  # keys that no query may see
    keys = torch.randn(num_sequences, key_heads, before + queries + spare, 8, dtype=torch.float64)
    return query, keys, torch.randn_like(keys)


def slow_attention(query, keys, values, visible):
    """`visible(sequence, query)` gives the indices of the keys that a query sees."""
    out = torch.empty_like(query)
    share = query.shape[1] // keys.shape[1]
    for b in range(query.shape[0]):
        for h in range(query.shape[1]):
            for q in range(query.shape[2]):
                seen = visible(b, q)
                key, value = keys[b, h // share, seen], values[b, h // share, seen]
                out[b, h, q] = (key @ query[b, h, q] / 8**0.5).softmax(-1) @ value
    return out


@pytest.fixture(params=["tiled", "fused"])
def way(request, monkeypatch):
    if request.param == "fused":
        monkeypatch.setattr(attention, "_is_on_cpu", lambda tensor: False)
    return request.param


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.usefixtures("way")
def test_causal_attention_equals_softmax_written_out(shape):
    query, keys, values = inputs(shape)
    before = shape[-1]
    expected = slow_attention(query, keys, values, lambda _, q: list(range(before + q + 1)))
    found = attention.causal_attention(query, keys, values, None, before)
    assert torch.allclose(found, expected, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.usefixtures("way")
def test_masked_attention_equals_softmax_written_out(shape):
    query, keys, values = inputs(shape)
    visible = torch.rand(len(query), query.shape[2], keys.shape[2]) < 0.5
    visible[:, :, 0] = True
    mask = torch.zeros(visible.shape, dtype=query.dtype)
    mask.masked_fill_(~visible, torch.finfo(query.dtype).min)
    expected = slow_attention(
        query, keys, values, lambda b, q: visible[b, q].nonzero()[:, 0].tolist()
    )
    found = attention.masked_attention(query, keys, values, mask, 8**-0.5)
    assert torch.allclose(found, expected, atol=1e-10)


def test_masked_attention_scaling_is_applied():
    query, keys, values = inputs(SHAPES[1])
    mask = torch.zeros(len(query), query.shape[2], keys.shape[2], dtype=query.dtype)
    once = attention.masked_attention(query * 3, keys, values, mask, 0.5)
    assert torch.allclose(attention.masked_attention(query, keys, values, mask, 1.5), once)
