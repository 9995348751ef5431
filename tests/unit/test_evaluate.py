"""The score of one arm by hand, and what an interval over items must satisfy."""

import math
import random

import pytest

from tests.support.builders import evaluated_item
from toolformer_core.evaluate import ArmScore, bootstrap_interval, score_arm


def test_score_arm_by_hand():
    # 4 items: 3 right (3/4 = 0.75); calls in 2 (0.5), of which one has 2; malformed in 1 (0.25).
    items = [
        evaluated_item(score=1.0, num_calls=2, num_malformed=0),
        evaluated_item(score=1.0, num_calls=1, num_malformed=3),
        evaluated_item(score=1.0, num_calls=0, num_malformed=0),
        evaluated_item(score=0.0, num_calls=0, num_malformed=0),
    ]
    low, high = bootstrap_interval([1.0, 1.0, 1.0, 0.0], 0)
    assert score_arm(items, "first number is right", 0) == ArmScore(
        benchmark="word_problems",
        arm="on",
        metric="first number is right",
        value=0.75,
        low=low,
        high=high,
        n=4,
        call_rate=0.5,
        malformed_rate=0.25,
    )


def test_score_arm_of_one_item_has_no_width():
    score = score_arm([evaluated_item(score=1.0)], "m", 0)
    assert (score.low, score.value, score.high) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_bootstrap_interval_of_equal_scores_is_that_score(score):
    assert bootstrap_interval([score] * 20, 0) == (score, score)


@pytest.mark.parametrize("num_right", [40, 200])
def test_bootstrap_interval_holds_95_percent_of_a_proportion(num_right):
    # For n = 400 the mean of resamples is close to normal: p +- 1.96 sqrt(p (1 - p) / n).
    p = num_right / 400
    half = 1.96 * math.sqrt(p * (1 - p) / 400)
    scores = [1.0] * num_right + [0.0] * (400 - num_right)
    bounds = [bootstrap_interval(scores, seed) for seed in range(4)]
    widths = [high - low for low, high in bounds]
    assert sum(widths) / 4 == pytest.approx(2 * half, rel=0.06)  # 90% would be narrower by 16%
    assert sum(low + high for low, high in bounds) / 8 == pytest.approx(p, abs=0.005)


def test_bootstrap_interval_same_seed_gives_the_same_bounds():
    scores = [1.0, 0.0, 1.0, 1.0, 0.0] * 5
    assert bootstrap_interval(scores, 3) == bootstrap_interval(scores, 3)


def test_bootstrap_interval_leaves_the_global_random_state_alone():
    random.seed(5)
    expected = random.Random(5).random()
    bootstrap_interval([1.0, 0.0], 0)
    assert random.random() == expected


def test_bootstrap_interval_narrows_with_more_items():
    low, high = bootstrap_interval([1.0, 0.0] * 10, 0)
    narrow_low, narrow_high = bootstrap_interval([1.0, 0.0] * 200, 0)
    assert narrow_high - narrow_low < (high - low) / 2


@pytest.mark.parametrize("seed", range(5))
def test_bootstrap_interval_holds_the_mean_and_stays_in_range(seed):
    scores = [0.0, 0.25, 1.0, 1.0, 0.5, 0.75, 0.0]
    low, high = bootstrap_interval(scores, seed)
    assert 0.0 <= low <= sum(scores) / len(scores) <= high <= 1.0
