"""Weights sum to one and fall; thresholds are monotone; pruning loses no kept call."""

import itertools
import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.support.builders import document, executed_call, scored_call
from tests.support.reference import reference_verdict, reference_weights
from tests.support.scripted_lm import ScriptedLM
from toolformer_core.config.pipeline import SampleConfig, ScoreConfig
from toolformer_core.filter import filter_calls, score_calls
from toolformer_core.losses import loss_reduction, loss_weights, weighted_loss
from toolformer_core.records import Outcome
from toolformer_core.sample import sample_calls
from toolformer_core.tools.calculator import Calculator

LOSSES = st.floats(0, 20)
ANY_LOSSES = LOSSES | st.sampled_from([math.nan, math.inf])
THRESHOLDS = st.floats(0, 10)
WORDS = st.lists(st.sampled_from(["34", "57", "91", "the", "sum", "is", "."]), max_size=14)
TEXTS = WORDS.map(" ".join)


@given(num_scored_tokens=st.integers(1, 100), num_available=st.integers(1, 200))
def test_loss_weights_sum_to_one_and_fall(num_scored_tokens, num_available):
    weights = loss_weights(num_scored_tokens, num_available)
    assert math.fsum(weights) == pytest.approx(1, abs=1e-12)
    assert len(weights) == min(num_scored_tokens, num_available)
    assert all(a > b for a, b in itertools.pairwise(weights))
    assert weights[-1] > 0


@given(num_available=st.integers(0, 200))
def test_loss_weights_equal_the_paper_for_any_length(num_available):
    expected = reference_weights(num_available)
    assert loss_weights(5, num_available) == pytest.approx(expected[:5], abs=1e-12)
    assert expected[5:] == [0] * max(0, num_available - 5)


@given(nll=st.lists(LOSSES, min_size=1, max_size=10))
def test_weighted_loss_lies_between_the_smallest_and_the_largest(nll):
    loss = weighted_loss(nll, 5)
    assert min(nll[:5]) - 1e-9 <= loss <= max(nll[:5]) + 1e-9


@given(nll=st.lists(LOSSES, min_size=1, max_size=10), shift=LOSSES)
def test_weighted_loss_moves_with_all_losses_alike(nll, shift):
    moved = weighted_loss([loss + shift for loss in nll], 5)
    assert moved == pytest.approx(weighted_loss(nll, 5) + shift, abs=1e-9)


@given(nll=st.lists(LOSSES, min_size=5, max_size=5), extra=st.lists(LOSSES))
def test_weighted_loss_ignores_tokens_past_the_fifth(nll, extra):
    assert weighted_loss(nll + extra, 5) == weighted_loss(nll, 5)


@given(without_call=LOSSES, with_empty=LOSSES, with_result=LOSSES)
def test_loss_reduction_never_exceeds_either_alternative(without_call, with_empty, with_result):
    reduction = loss_reduction(without_call, with_empty, with_result)
    assert reduction <= without_call - with_result
    assert reduction <= with_empty - with_result
    assert reduction in (without_call - with_result, with_empty - with_result)


@given(losses=st.tuples(ANY_LOSSES, ANY_LOSSES, ANY_LOSSES), threshold=THRESHOLDS)
def test_filter_calls_keeps_what_is_defined_and_reaches_the_threshold(losses, threshold):
    reduction = loss_reduction(*losses)
    [decision] = filter_calls([scored_call(loss_reduction=reduction)], threshold)
    is_defined = not any(map(math.isnan, losses)) and math.isfinite(min(losses[:2]) - losses[2])
    assert decision.kept == (is_defined and min(losses[:2]) - losses[2] >= threshold)


@given(reductions=st.lists(st.floats(), max_size=20), low=THRESHOLDS, high=THRESHOLDS)
def test_filter_calls_higher_threshold_never_keeps_more(reductions, low, high):
    low, high = sorted((low, high))
    scored = [scored_call(candidate_id=str(k), loss_reduction=r) for k, r in enumerate(reductions)]
    kept_low, kept_high = (
        {d.candidate_id for d in filter_calls(scored, threshold) if d.kept}
        for threshold in (low, high)
    )
    assert kept_high <= kept_low


@given(reductions=st.lists(st.floats(), max_size=20), threshold=THRESHOLDS)
def test_filter_calls_give_one_decision_and_at_most_one_reason_per_call(reductions, threshold):
    scored = [scored_call(candidate_id=str(k), loss_reduction=r) for k, r in enumerate(reductions)]
    decisions = filter_calls(scored, threshold)
    assert [d.candidate_id for d in decisions] == [s.candidate_id for s in scored]
    assert all(d.kept == (d.drop_reason is None) for d in decisions)


def executed_of(proposed):
    """Every proposed call answered with "7"."""
    return [
        executed_call(
            candidate_id=call.candidate_id,
            char_offset=call.char_offset,
            token_index=call.token_index,
            argument=call.argument,
            loss_without_call=call.loss_without_call,
            outcome=Outcome.OK,
            result="7",
        )
        for call in proposed
        if call.drop_reason is None
    ]


def annotate(text, prune_below, threshold):
    """Scores and decisions of all calls that ScriptedLM proposes for the text."""
    doc, lm, tool = document(text=text), ScriptedLM(), Calculator()
    config = SampleConfig(
        sampling_threshold=0.2,
        max_positions=6,
        samples_per_position=2,
        look_ahead_guard=False,
        prune_below=prune_below,
    )
    proposed, _ = sample_calls([doc], lm, tool, config, num_scored_tokens=5)
    executed = executed_of(proposed)
    by_id = {doc.document_id: doc}
    scored = score_calls(executed, by_id, lm, tool, ScoreConfig(), prune_below=prune_below)
    decisions = filter_calls(scored, threshold)
    return list(zip(scored, decisions, strict=True))


@given(text=TEXTS, threshold=THRESHOLDS.filter(lambda t: t <= 3), share=st.floats(0, 1))
def test_sample_calls_prune_below_the_threshold_loses_no_kept_call(text, threshold, share):
    def kept(prune_below):
        return [d for _, d in annotate(text, prune_below, threshold) if d.kept]

    assert kept(prune_below=threshold * share) == kept(prune_below=0.0)


@given(text=TEXTS, threshold=st.floats(0, 2))
def test_filter_calls_equal_the_slow_reference(text, threshold):
    for call, decision in annotate(text, 0.0, threshold):
        expected = reference_verdict(
            ScriptedLM(), text, call.token_index, ("Calculator", call.argument, "7"), threshold
        )
        if call.loss_with_empty_result is None:  # needless: below zero without it
            assert expected.loss_reduction <= decision.loss_reduction + 1e-12 < 1e-12
        else:
            assert decision.loss_reduction == pytest.approx(expected.loss_reduction, abs=1e-12)
        assume(abs(expected.loss_reduction - threshold) > 1e-9)
        assert decision.kept == expected.is_kept
