"""The gate: computed by hand, and shut where nothing is shown."""

import math

import pytest

from tests.support.builders import evaluated_item
from toolformer_core.errors import DataError
from toolformer_core.evaluation.gate import MIN_TEXTS, GateConfig, decide

CONFIG = GateConfig(benchmark="word_problems", texts="heldout=texts.txt", perplexity_tolerance=0.02)


def answers(right):
    """Items of the tool benchmark, 1 or 0 each."""
    return [
        evaluated_item(item_id=f"question-{n}", score=float(score)) for n, score in enumerate(right)
    ]


def readings(losses, weight=10):
    """Items of the texts: nats per token each, as long as `weight` tokens."""
    return [
        evaluated_item(
            benchmark="heldout", arm="disabled", item_id=f"text-{n}", score=loss, weight=weight
        )
        for n, loss in enumerate(losses)
    ]


TEXTS = [2.0, 3.0] * (MIN_TEXTS // 2)
OLD = [*answers([1] * 4 + [0] * 16), *readings(TEXTS)]


def test_decide_without_a_champion_passes():
    decision = decide(OLD, [], CONFIG, 0)
    assert decision.passed
    assert decision.reason == "there is no champion yet"


def test_decide_better_answers_and_equal_perplexity_pass_with_figures_by_hand():
    # Of 20 questions 6 are gained and none is lost: p = 2 * (1/2)^6.
    new = [*answers([1] * 10 + [0] * 10), *readings(TEXTS)]
    decision = decide(new, OLD, CONFIG, 0)
    assert decision.passed
    assert decision.figures == pytest.approx(
        {
            "perplexity_passed": 1,
            "perplexity_new": math.exp(2.5),
            "perplexity_champion": math.exp(2.5),
            "perplexity_ratio": 1,
            "perplexity_ratio_low": 1,
            "perplexity_ratio_high": 1,
            "tool_passed": 1,
            "tool_new": 0.5,
            "tool_champion": 0.2,
            "tool_difference": 0.3,
            "tool_p_value": 2 / 64,
        }
    )


@pytest.mark.parametrize(
    ("gained", "lost", "passed"),
    [(5, 0, False), (6, 0, True), (0, 6, False), (9, 2, False), (0, 0, False)],
)
def test_decide_asks_for_more_right_answers_than_chance_gives(gained, lost, passed):
    kept = [1] * (12 - lost) + [0] * lost
    old = [*answers([1] * 12 + [0] * 12), *readings(TEXTS)]
    new = [*answers(kept + [1] * gained + [0] * (12 - gained)), *readings(TEXTS)]
    decision = decide(new, old, CONFIG, 0)
    assert decision.passed == passed
    assert ("not shown to be better" in decision.reason) != passed


@pytest.mark.parametrize(("rise", "passed"), [(0.019, True), (0.021, False), (-0.3, True)])
def test_decide_bounds_the_ratio_of_perplexities(rise, passed):
    step = math.log(1 + rise)
    new = [*answers([1] * 20), *readings([loss + step for loss in TEXTS])]
    decision = decide(new, OLD, CONFIG, 0)
    assert decision.figures["perplexity_ratio"] == pytest.approx(1 + rise)
    assert decision.passed == passed
    assert ("may be worse" in decision.reason) != passed


def test_decide_texts_that_differ_widely_keep_the_gate_shut():
    # Half of the texts much worse, half much better: that no more than 2% is lost is not shown.
    new = [*answers([1] * 20), *readings([2.5] * MIN_TEXTS)]
    decision = decide(new, OLD, CONFIG, 0)
    assert decision.figures["perplexity_ratio"] == pytest.approx(1)
    assert 1.02 < decision.figures["perplexity_ratio_high"] < math.exp(0.5)
    assert not decision.passed


def test_decide_few_texts_keep_the_gate_shut_whatever_they_show():
    texts = TEXTS[: MIN_TEXTS - 1]
    old = [*answers([0] * 20), *readings(texts)]
    new = [*answers([1] * 20), *readings([loss - 1 for loss in texts])]
    decision = decide(new, old, CONFIG, 0)
    assert not decision.passed
    assert decision.figures["perplexity_ratio"] == pytest.approx(math.exp(-1))
    assert decision.figures["perplexity_ratio_high"] == math.inf
    assert "only 19 texts where 20 are needed: may be worse" in decision.reason


def test_decide_weighs_texts_by_their_tokens():
    old = [*answers([0] * 6), *readings([2.0], 30), *readings([0.0, 3.0])[1:]]
    new = [*answers([1] * 6), *readings([2.0], 30), *readings([0.0, 3.4])[1:]]
    decision = decide(new, old, CONFIG, 0)
    assert decision.figures["perplexity_ratio"] == pytest.approx(math.exp(0.4 * 10 / 40))


def test_decide_compares_nats_per_text_where_tokens_differ():
    # The same texts and the same nats, in half as many tokens: twice the loss of each token.
    new = [*answers([1] * 20), *readings([2 * loss for loss in TEXTS], weight=5)]
    decision = decide(new, OLD, CONFIG, 0)
    assert decision.passed
    assert decision.figures["perplexity_new"] == pytest.approx(math.exp(2.5))
    assert decision.figures["perplexity_ratio_high"] == pytest.approx(1)


def test_decide_other_items_of_the_champion_are_refused():
    with pytest.raises(
        DataError,
        match="heldout has 20 items of the new model and 1 of the champion in arm disabled, 1 of",
    ):
        decide(OLD, [*answers([1] * 20), *readings([2.0])], CONFIG, 0)
