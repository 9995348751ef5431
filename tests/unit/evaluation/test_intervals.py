"""Intervals over items against the normal law and a plain loop; McNemar's test by hand."""

import math
import random

import numpy as np
import pytest

from toolformer_core.evaluation.intervals import bootstrap_interval, mcnemar, weighted_mean


def mean_interval(scores, seed=0):
    return bootstrap_interval([scores], np.mean, seed)


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_bootstrap_interval_of_equal_scores_is_that_score(score):
    assert mean_interval([score] * 20) == (score, score)


def test_bootstrap_interval_of_one_item_has_no_width():
    assert mean_interval([0.25]) == (0.25, 0.25)


@pytest.mark.parametrize("num_right", [40, 200])
def test_bootstrap_interval_holds_95_percent_of_a_proportion(num_right):
    # For n = 400 the mean of resamples is close to normal: p +- 1.96 sqrt(p (1 - p) / n).
    p = num_right / 400
    half = 1.96 * math.sqrt(p * (1 - p) / 400)
    scores = [1.0] * num_right + [0.0] * (400 - num_right)
    bounds = [mean_interval(scores, seed) for seed in range(4)]
    widths = [high - low for low, high in bounds]
    assert sum(widths) / 4 == pytest.approx(2 * half, rel=0.06)  # 90% would be narrower by 16%
    assert sum(low + high for low, high in bounds) / 8 == pytest.approx(p, abs=0.005)


def test_bootstrap_interval_same_seed_gives_the_same_bounds():
    scores = [1.0, 0.0, 1.0, 1.0, 0.0] * 5
    assert mean_interval(scores, 3) == mean_interval(scores, 3)
    assert mean_interval(range(40), 3) != mean_interval(range(40), 4)


def test_bootstrap_interval_leaves_the_global_random_state_alone():
    np.random.seed(5)
    expected = np.random.RandomState(5).rand()
    mean_interval([1.0, 0.0])
    assert np.random.rand() == expected


def test_bootstrap_interval_narrows_with_more_items():
    low, high = mean_interval([1.0, 0.0] * 10)
    narrow_low, narrow_high = mean_interval([1.0, 0.0] * 200)
    assert narrow_high - narrow_low < (high - low) / 2


def test_bootstrap_interval_resamples_columns_together_as_a_plain_loop_does():
    draw = random.Random(3)
    weights = [draw.randint(1, 900) for _ in range(60)]
    scores = [2.0 + weight / 400 + draw.random() for weight in weights]  # long texts are harder
    found = bootstrap_interval([scores, weights], weighted_mean, 0)
    means = []
    for _ in range(4000):
        chosen = draw.choices(range(60), k=60)
        total = sum(weights[k] for k in chosen)
        means.append(sum(scores[k] * weights[k] for k in chosen) / total)
    means.sort()
    width = means[3900] - means[100]
    assert found[0] == pytest.approx(means[100], abs=0.12 * width)
    assert found[1] == pytest.approx(means[3900], abs=0.12 * width)


def test_bootstrap_interval_of_a_difference_is_narrower_for_pairs_that_agree():
    one = [1.0, 0.0] * 50
    other = [*one[:95], 0.0, 0.0, 0.0, 0.0, 0.0]

    def difference(a, b, axis=-1):
        return a.mean(axis) - b.mean(axis)

    low, high = bootstrap_interval([one, other], difference, 0)
    apart_low, apart_high = bootstrap_interval([one, other[::-1]], difference, 0)
    assert high - low < (apart_high - apart_low) / 3


def test_weighted_mean_by_hand():
    # (1 * 2 + 3 * 6) / 8 = 2.5
    assert weighted_mean(np.array([1.0, 3.0]), np.array([2.0, 6.0])) == 2.5


@pytest.mark.parametrize(
    ("gained", "lost", "expected"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),  # two tails of 1/2
        (5, 0, 2 / 32),
        (0, 5, 2 / 32),
        (6, 1, 2 * (1 + 7) / 128),  # P(X <= 1) of 7 fair coins, twice
        (3, 3, 1.0),
    ],
)
def test_mcnemar_by_hand(gained, lost, expected):
    one = [1.0] * gained + [0.0] * lost + [1.0, 0.0] * 9
    other = [0.0] * gained + [1.0] * lost + [1.0, 0.0] * 9
    assert mcnemar(one, other) == pytest.approx(expected)
