"""Weights and losses against the paper's fractions, a sum by hand and a slow reference."""

import math

import pytest

from tests.support.reference import reference_loss, reference_weights
from tests.support.scripted_lm import ScriptedLM
from toolformer_core.lm import LossRequest
from toolformer_core.losses import loss_reduction, loss_weights, weighted_loss


def test_loss_weights_of_the_paper_are_fifteenths():
    expected = [5 / 15, 4 / 15, 3 / 15, 2 / 15, 1 / 15]
    assert loss_weights(5, 5) == pytest.approx(expected, rel=1e-12)


def test_loss_weights_ignore_tokens_past_the_fifth():
    assert loss_weights(5, 100) == loss_weights(5, 5)


@pytest.mark.parametrize(
    ("num_available", "expected"),
    [(1, [1]), (2, [5 / 9, 4 / 9]), (3, [5 / 12, 4 / 12, 3 / 12]), (0, [])],
)
def test_loss_weights_near_the_end_are_renormalised(num_available, expected):
    assert loss_weights(5, num_available) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("num_available", "expected"), [(9, [1 / 5] * 5), (5, [1 / 5] * 5), (2, [1 / 2] * 2), (0, [])]
)
def test_loss_weights_flat_are_all_alike_and_sum_to_one(num_available, expected):
    assert loss_weights(5, num_available, "flat") == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("num_available", range(8))
def test_loss_weights_equal_the_formula(num_available):
    expected = reference_weights(num_available)[:5]
    assert loss_weights(5, num_available) == pytest.approx(expected, rel=1e-12)


def test_weighted_loss_by_hand():
    # Losses 3.0, 1.5, 0.6, 0.9, 2.4 nats, then one token that has no weight:
    # (5 * 3.0 + 4 * 1.5 + 3 * 0.6 + 2 * 0.9 + 1 * 2.4) / 15
    #   = (15.0 + 6.0 + 1.8 + 1.8 + 2.4) / 15 = 27.0 / 15 = 1.8 nats
    assert weighted_loss([3.0, 1.5, 0.6, 0.9, 2.4, 99.0], 5) == pytest.approx(1.8, rel=1e-12)


def test_weighted_loss_flat_by_hand():
    # (3.0 + 1.5 + 0.6 + 0.9 + 2.4) / 5 = 8.4 / 5 = 1.68 nats; the sixth token has no weight.
    nll = [3.0, 1.5, 0.6, 0.9, 2.4, 99.0]
    assert weighted_loss(nll, 5, "flat") == pytest.approx(1.68, rel=1e-12)


def test_weighted_loss_of_equal_losses_is_that_loss():
    assert weighted_loss([0.7] * 3, 5) == pytest.approx(0.7, rel=1e-12)


def test_weighted_loss_without_tokens_is_a_float_zero():
    loss = weighted_loss([], 5)
    assert (loss, type(loss)) == (0.0, float)  # an int would change the digest of a stored row


@pytest.mark.parametrize("i", range(10))
def test_weighted_loss_equals_the_slow_reference(i):
    lm, text = ScriptedLM(), "She bought 34 apples and 57 pears, 91 in"
    tokens = lm.tokenize(text)
    request = LossRequest(prefix="z\n", tokens=tokens, first=i, last=len(tokens.token_ids))
    [nll] = lm.token_losses([request])
    expected = reference_loss(lm, text, i, "z\n")
    assert weighted_loss(nll, 5) == pytest.approx(expected, rel=1e-12)


def test_loss_reduction_compares_with_the_call_without_result_where_that_is_better():
    assert loss_reduction(3.0, 2.5, 1.0) == 1.5


def test_loss_reduction_compares_with_no_call_where_that_is_better():
    assert loss_reduction(2.0, 2.5, 1.0) == 1.0


def test_loss_reduction_of_a_harmful_result_is_negative():
    assert loss_reduction(1.0, 1.0, 1.5) == -0.5


@pytest.mark.parametrize("nan_index", [0, 1, 2])
def test_loss_reduction_with_a_nan_is_nan(nan_index):
    losses = [3.0, 2.5, 1.0]
    losses[nan_index] = math.nan
    assert math.isnan(loss_reduction(*losses))
