"""Losses of long texts in windows, against a plain strided loop in float64."""

import copy

import pytest
import torch

from tests.support import tiny_model
from toolformer_core.models import ModelRef
from toolformer_core.transformers_lm.adapter import HFLanguageModel
from toolformer_core.transformers_lm.loading import load_model
from toolformer_core.transformers_lm.perplexity import Window, rolling_losses, window_losses
from toolformer_core.transformers_lm.probe import Way

WINDOW = 32
LONG = " ".join(tiny_model.SENTENCES)


def load(folder):
    return load_model(ModelRef(path=str(folder), digest="", dtype="float32"), "cpu", 4096)


@pytest.fixture(scope="module", params=["tiny_llama_folder", "tiny_gpt2_folder"])
def lm(request):
    return load(request.getfixturevalue(request.param))


def texts_of_lengths(lm, lengths):
    """Pieces of one text with so many tokens; pieces must not merge at their ends."""
    ids = lm.encode(LONG * 3)
    texts = [lm.tokenizer.decode(ids[:length]) for length in lengths]
    assert [len(lm.encode(text)) for text in texts] == list(lengths)
    return texts


@torch.inference_mode()
def strided_loss(lm, model64, text, window):
    """One token after the other is predicted in its window: one forward each, no cache."""
    ids = lm.encode(text)
    started = [lm.document_start_id, *ids]
    total = 0.0
    for i, token in enumerate(ids):
        first_of_window = i - i % window
        last_of_window = min(first_of_window + window, len(ids))
        seen = started[max(0, last_of_window - window) : i + 1]
        logits_TV = model64(input_ids=torch.tensor([seen]), use_cache=False).logits[0]
        total -= float(logits_TV[-1].log_softmax(-1)[token])
    return total, len(ids)


def expected_losses(lm, texts, window):
    model64 = copy.deepcopy(lm.model).double()
    return [strided_loss(lm, model64, text, window) for text in texts]


def assert_close(found, expected):
    assert [count for _, count in found] == [count for _, count in expected]
    assert [nats for nats, _ in found] == pytest.approx([nats for nats, _ in expected], rel=1e-5)


def test_rolling_losses_any_length_equal_strided_float64_reference(lm):
    texts = texts_of_lengths(lm, [0, 1, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW, 3 * WINDOW + 5])
    expected = expected_losses(lm, texts, WINDOW)
    assert lm.way is Way.PACKED
    for way in Way:
        for token_budget in (1, 100, 4096):
            other = HFLanguageModel(lm.model, lm.tokenizer, token_budget)
            other.__dict__["way"] = way
            assert_close(rolling_losses(other, texts, WINDOW), expected)


@torch.inference_mode()
def test_rolling_losses_window_beyond_the_context_is_the_whole_context(tiny_gpt2_folder):
    lm = load(tiny_gpt2_folder)
    texts = texts_of_lengths(lm, [lm.context_tokens, lm.context_tokens + 3])
    found = rolling_losses(lm, texts, 10 * lm.context_tokens)
    assert found == rolling_losses(lm, texts, lm.context_tokens)
    ids = lm.encode(texts[0])
    seen = torch.tensor([[lm.document_start_id, *ids[:-1]]])
    logits_TV = copy.deepcopy(lm.model).double()(input_ids=seen).logits[0]
    expected = float(torch.nn.functional.cross_entropy(logits_TV, torch.tensor(ids)) * len(ids))
    assert_close(found[:1], [(expected, len(ids))])


def test_rolling_losses_without_text_are_none(lm):
    assert rolling_losses(lm, [], WINDOW) == []


def test_window_losses_greedy_tokens_are_told(lm):
    seen = [lm.document_start_id, *lm.encode("The mill")]
    predicted = []
    for _ in range(3):
        logits_BTV = lm.model(input_ids=torch.tensor([[*seen, *predicted]])).logits
        predicted.append(int(logits_BTV[0, -1].argmax()))
    other = [*predicted[:2], (predicted[2] + 1) % 400]
    windows = [Window([*seen, *p[:-1]], p) for p in (predicted, other)]
    found = window_losses(lm, [*windows, Window(seen, [])])
    assert [loss.is_greedy for loss in found] == [True, False, True]
    assert found[0].nats < found[1].nats
    assert found[2].nats == 0
