"""The chunked loss and the scores of an evaluation, against full logits."""

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM

from tests.support.tiny_model import tiny_gpt2, tiny_llama
from toolformer_core.training.loss import (
    IGNORED,
    chunked_loss,
    give_own_loss,
    has_plain_head,
    keeps_packed_texts_apart,
    token_scores,
)


def tiny_gemma2():
    """A model that caps its logits, so that the head's product alone is not what it predicts."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 400}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    config = AutoConfig.for_model(
        "gemma2", **sizes, **heads, final_logit_softcapping=0.5, pad_token_id=0
    )
    return AutoModelForCausalLM.from_config(config).eval()


MODELS = [tiny_llama, tiny_gpt2, tiny_gemma2]


def labels(vocabulary, ignored_share=0.0):
    generator = torch.Generator().manual_seed(2)
    labels_BT = torch.randint(0, vocabulary, (4, 400), generator=generator)
    labels_BT[torch.rand(4, 400, generator=generator) < ignored_share] = IGNORED
    return labels_BT


def full_loss(logits_BTV, labels_BT):
    return cross_entropy(
        logits_BTV[:, :-1].flatten(0, 1), labels_BT[:, 1:].flatten(), reduction="sum"
    )


@pytest.mark.parametrize("ignored_share", [0.0, 0.4])
@pytest.mark.parametrize("has_bias", [False, True])
def test_chunked_loss_and_gradients_equal_full_cross_entropy(ignored_share, has_bias):
    hidden_BTH = torch.randn(4, 400, 16, generator=torch.Generator().manual_seed(1))
    head = torch.nn.Linear(16, 50, bias=has_bias)
    labels_BT = labels(50, ignored_share)

    def gradients(loss_of):
        hidden = hidden_BTH.clone().requires_grad_()
        loss = loss_of(hidden)
        return loss.detach(), *torch.autograd.grad(loss / 3, [hidden, *head.parameters()])

    found = gradients(lambda hidden: chunked_loss(hidden, head.weight, head.bias, labels_BT))
    expected = gradients(lambda hidden: full_loss(head(hidden), labels_BT))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)


def test_chunked_loss_in_bfloat16_is_as_exact_as_one_product():
    """Over many chunks; a running sum in bfloat16 would lose digits at each."""
    generator = torch.Generator().manual_seed(1)
    hidden_BTH = torch.randn(1, 8193, 32, generator=generator).bfloat16()
    weight_VH = (0.3 * torch.randn(500, 32, generator=generator)).bfloat16()
    labels_BT = torch.randint(0, 500, (1, 8193), generator=generator)

    def gradient(loss_of, dtype):
        weight = weight_VH.to(dtype).requires_grad_()
        (found,) = torch.autograd.grad(loss_of(hidden_BTH.to(dtype), weight), [weight])
        assert found.dtype == dtype
        return found.double()

    def whole(hidden_BTH, weight_VH):
        logits_BTV = hidden_BTH @ weight_VH.T
        is_exact = logits_BTV.dtype == torch.float64
        return full_loss(logits_BTV if is_exact else logits_BTV.float(), labels_BT)

    exact = gradient(whole, torch.float64)
    error = (gradient(whole, torch.bfloat16) - exact).norm()
    chunked = gradient(lambda h, w: chunked_loss(h, w, None, labels_BT), torch.bfloat16)
    assert (chunked - exact).norm() <= 1.3 * error


def test_chunked_loss_of_a_frozen_head_reaches_the_hidden_states():
    head = torch.nn.Linear(16, 50).requires_grad_(False)
    hidden_BTH = torch.randn(4, 400, 16, requires_grad=True)
    chunked_loss(hidden_BTH, head.weight, head.bias, labels(50)).backward()
    assert head.weight.grad is None
    assert float(hidden_BTH.grad.abs().min(dim=2).values[:, :-1].max()) > 0


def test_chunked_loss_without_labels_is_zero():
    hidden_BTH = torch.zeros(2, 5, 4, requires_grad=True)
    head = torch.nn.Linear(4, 7)
    loss = chunked_loss(hidden_BTH, head.weight, head.bias, torch.full((2, 5), IGNORED))
    loss.backward()
    assert float(loss.detach()) == float(head.weight.grad.abs().sum()) == 0.0


@pytest.mark.parametrize("build", MODELS)
def test_own_loss_and_gradients_equal_those_of_the_model_itself(build):
    """The attention mask too: rows of unequal length."""
    labels_BT = labels(400)[:, :40]
    ids_BT = labels_BT.clone()
    mask_BT = torch.ones_like(ids_BT)
    mask_BT[1, 25:] = 0
    labels_BT[1, 25:] = IGNORED
    count = int((labels_BT[:, 1:] != IGNORED).sum())

    def gradients(model, loss):
        loss.backward()
        return loss.detach(), {n: p.grad for n, p in model.named_parameters()}

    model = build().train()
    torch.manual_seed(4)  # of dropout
    logits_BTV = model(input_ids=ids_BT, attention_mask=mask_BT).logits
    expected, expected_gradients = gradients(model, full_loss(logits_BTV, labels_BT) / count)
    model = build()
    give_own_loss(model, [7], has_plain_head=has_plain_head(model, ids_BT))
    model.train()
    torch.manual_seed(4)
    out = model(
        input_ids=ids_BT, labels=labels_BT, attention_mask=mask_BT, num_items_in_batch=count
    )
    found, found_gradients = gradients(model, out["loss"])
    torch.testing.assert_close(found, expected)
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(found_gradients[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("build", "expected"), list(zip(MODELS, [True, True, False], strict=True)))
def test_has_plain_head_tells_models_that_change_their_logits(build, expected):
    assert has_plain_head(build(), labels(400)[:1, :12]) is expected


@pytest.mark.parametrize("build", MODELS)
def test_keeps_packed_texts_apart_holds_for_rotary_and_learned_positions(build):
    assert keeps_packed_texts_apart(build(), labels(400)[:1, :12])


def test_keeps_packed_texts_apart_tells_a_model_that_looks_across():
    """Bidirectional or recurrent models do; here, one whose mask is given away."""
    model = tiny_llama()
    forward = model.forward

    def looks_across(input_ids, position_ids=None, **options):
        return forward(input_ids=input_ids, **options)

    model.forward = looks_across
    assert not keeps_packed_texts_apart(model, labels(400)[:1, :12])


def test_token_scores_equal_a_loop_over_full_logits():
    generator = torch.Generator().manual_seed(3)
    logits_BTV = torch.randn(2, 300, 50, generator=generator)
    labels_BT = labels(50, 0.3)[:2, :300]
    starts = [3, 8]
    found = token_scores(logits_BTV, lambda logits_CV: logits_CV, labels_BT, starts)
    for b in range(2):
        for t in range(299):
            label, logits_V = int(labels_BT[b, t + 1]), logits_BTV[b, t]
            if label == IGNORED:
                assert [float(found[name][b, t]) for name in found] == [0, 0, 0]
                continue
            nll = float(logits_V.logsumexp(0) - logits_V[label])
            assert float(found["nll"][b, t]) == pytest.approx(nll, rel=1e-4)
            assert bool(found["is_best"][b, t]) == (int(logits_V.argmax()) == label)
            likelier = int((logits_V > max(logits_V[s] for s in starts)).sum())
            assert int(found["start_rank"][b, t]) == likelier


def test_token_scores_without_labels_are_zero():
    labels_BT = torch.full((2, 5), IGNORED)
    scores = token_scores(torch.zeros(2, 5, 9), lambda logits_CV: logits_CV, labels_BT, [1])
    assert all(float(values.sum()) == 0 for values in scores.values())
