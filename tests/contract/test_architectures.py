"""Any causal model of transformers: which way it is decoded, and that the way is exact.

Tiny random models of real architectures: packed attention; only a 4-D mask (soft caps, attention of
their own); neither (distances counted in columns, layers that look back a little); recurrent ones.
"""

import logging

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.support.tiny_model import tiny_tokenizer
from tests.unit.transformers_lm.test_adapter import (
    GREEDY,
    TEXTS,
    as_pairs,
    continuation_requests,
    loss_requests,
    prompt_ids,
    read,
    reference_continuation,
    reference_logits,
    reference_losses,
)
from toolformer_core.transformers_lm.adapter import HFLanguageModel
from toolformer_core.transformers_lm.probe import Way

GROUPED = {"intermediate_size": 64, "num_key_value_heads": 2}
ARCHITECTURES = {
    "qwen3": ("packed", {**GROUPED, "head_dim": 8}),
    "gemma3_text": ("packed", {**GROUPED, "head_dim": 8}),
    "gpt_neox": ("packed", {"intermediate_size": 64}),
    "opt": ("packed", {"ffn_dim": 64, "word_embed_proj_dim": 32}),
    "gemma2": ("masked", {**GROUPED, "head_dim": 8}),
    "gptj": ("masked", {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4}),
    "bloom": ("copied", {"n_head": 4, "n_layer": 2}),
    "mpt": ("copied", {"d_model": 32, "n_heads": 4, "n_layers": 2}),
    "gpt_neo": ("copied", {"num_layers": 2, "num_heads": 4, "attention_types": [[["local"], 2]]}),
    "mamba": ("whole", {}),
    "rwkv": ("whole", {"attention_hidden_size": 32}),
}


def architecture_lm(name):
    """The adapter of a tiny random model."""
    _, settings = ARCHITECTURES[name]
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    config = AutoConfig.for_model(
        name,
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        **settings,
    )
    return HFLanguageModel(AutoModelForCausalLM.from_config(config).eval(), tokenizer)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def case(request):
    """The way a model is decoded, and its adapter."""
    return Way(ARCHITECTURES[request.param][0]), architecture_lm(request.param)


def test_way_is_found_and_a_slow_one_is_warned_of(case, caplog):
    way, lm = case
    other = HFLanguageModel(lm.model, lm.tokenizer)
    with caplog.at_level(logging.WARNING, logger="toolformer_core.transformers_lm.probe"):
        assert other.way is way
    warned = [r for r in caplog.records if "decoded as a copy" in r.getMessage()]
    assert len(warned) == (way in (Way.COPIED, Way.WHOLE))


def test_losses_equal_one_forward_each(case):
    _, lm = case
    requests = loss_requests(lm)
    for row, request in zip(lm.token_losses(requests), requests, strict=True):
        assert row == pytest.approx(reference_losses(lm, lm.model, request), abs=1e-4)


def test_start_probabilities_equal_one_forward_each(case):
    _, lm = case
    tokens = [lm.tokenize(text) for text in TEXTS]
    for row, text in zip(read(lm, tokens).start_probabilities, tokens, strict=True):
        for i, probability in row.items():
            logits = reference_logits(lm.model, prompt_ids(lm, text, i))[-1]
            expected = float(logits.softmax(-1)[list(lm.start_ids)].sum())
            assert probability == pytest.approx(expected, abs=1e-5)


def test_continuations_equal_decoding_without_cache(case):
    _, lm = case
    tokens = [lm.tokenize(text) for text in TEXTS]
    requests = continuation_requests(lm, tokens)[::2]
    expected = [reference_continuation(lm, tokens[r.document_index], r, GREEDY) for r in requests]
    assert as_pairs(read(lm, tokens).continuations(requests, GREEDY)) == expected
