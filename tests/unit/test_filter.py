"""Scores and decisions on a scripted model: prefix, position, end of text, broken losses."""

import math
from collections import Counter

import pytest

from tests.support.builders import document, executed_call, scored_call
from tests.support.reference import reference_verdict
from tests.support.scripted_lm import ScriptedLM
from toolformer_core.augment import augment_documents, example_cutoffs
from toolformer_core.config.pipeline import AugmentConfig, ScoreConfig
from toolformer_core.filter import filter_calls, score_calls
from toolformer_core.records import DropReason, Outcome
from toolformer_core.tools.calculator import Calculator

TEXT = "Of 34 and 57 the sum is 91 ."  # tokens: Of 34 and 57 the sum is 91 .
DOCUMENTS = {"document-1": document(text=TEXT)}
CONFIG = ScoreConfig()
IN_PLACE = ScoreConfig(prefix_position="in_place")
WITH_RESULT = "[Calculator(34 + 57) -> 91]\n"
WITH_EMPTY_RESULT = "[Calculator(34 + 57) -> ]\n"


def score(lm, *calls, config=CONFIG):
    return score_calls(calls, DOCUMENTS, lm, Calculator(), config)


def call_at(token_index, **fields):
    offset = ScriptedLM().tokenize(TEXT).char_offsets[token_index]
    return executed_call(token_index=token_index, char_offset=offset, **fields)


def decide(**fields):
    [decision] = filter_calls([scored_call(**fields)], 1.0)
    return decision.kept, decision.drop_reason


def test_score_calls_prefix_stands_before_the_text_with_and_without_result():
    # From " 34" on: (5 a + 4 b + 3 c + 2 d + e) / 15; the token before it must not count.
    lm = ScriptedLM(
        losses={
            (WITH_RESULT, TEXT): [50, 3, 0, 0, 0, 0, 50, 50, 50],
            (WITH_EMPTY_RESULT, TEXT): [50, 0, 3, 0, 0, 0, 50, 50, 50],
        }
    )
    [scored] = score(lm, call_at(1))
    assert scored.loss_with_result == pytest.approx(5 * 3 / 15)
    assert scored.loss_with_empty_result == pytest.approx(4 * 3 / 15)


def test_score_calls_separator_parts_prefix_and_text():
    lm = ScriptedLM(losses={("[Calculator(34 + 57) -> 91] || ", TEXT): [2] * 9})
    [scored] = score(lm, call_at(1), config=ScoreConfig(prefix_separator=" || "))
    assert scored.loss_with_result == pytest.approx(2)


class Recorder:
    """A model whose every loss is 1 nat; remembers what was asked."""

    context_tokens = ScriptedLM().context_tokens
    tokenize = staticmethod(ScriptedLM().tokenize)

    def __init__(self):
        self.asked = []

    def token_losses(self, requests):
        self.asked.extend(requests)
        return [(1.0,) * (r.last - r.first) for r in requests]


@pytest.mark.parametrize(
    ("token_index", "expected"),
    [(7, " [Calculator(34 + 57) -> 91]"), (0, "[Calculator(34 + 57) -> 91] ")],
)
def test_score_calls_in_place_put_the_call_where_training_does(token_index, expected):
    recorder = Recorder()
    [scored] = score(recorder, call_at(token_index), config=IN_PLACE)
    request = recorder.asked[0]
    assert (request.prefix, request.prefix_before) == (expected, token_index)
    at = request.tokens.char_offsets[token_index]
    augmented = TEXT[:at] + request.prefix + TEXT[at:]
    [decision] = filter_calls([scored], 0.0)
    config = AugmentConfig()
    [trained_on] = augment_documents(
        [DOCUMENTS["document-1"]], [decision], example_cutoffs([decision], config), config
    )
    assert trained_on.augmented_text == augmented


def test_score_calls_in_place_of_a_window_see_the_window_alone():
    recorder = Recorder()
    # The window " and 57 the sum is 91 ." starts with a space, and nothing is seen before it.
    window = {"window_start": 2, "window_end": 9}
    score(recorder, call_at(2, **window), call_at(7, **window), config=IN_PLACE)
    first, later = recorder.asked[:2]
    assert (first.prefix, first.prefix_before) == ("[Calculator(34 + 57) -> 91]", 0)
    assert (later.prefix, later.prefix_before) == (" [Calculator(34 + 57) -> 91]", 5)


def test_score_calls_flat_weights_by_hand():
    lm = ScriptedLM(
        losses={
            (WITH_RESULT, TEXT): [50, 3, 1, 0, 0, 1, 50, 50, 50],
            (WITH_EMPTY_RESULT, TEXT): [50, 3, 1, 0, 2, 4, 50, 50, 50],
        }
    )
    [scored] = score(lm, call_at(1), config=ScoreConfig(token_weights="flat"))
    assert scored.loss_with_result == pytest.approx((3 + 1 + 1) / 5)
    assert scored.loss_with_empty_result == pytest.approx((3 + 1 + 2 + 4) / 5)


def test_score_calls_loss_without_call_is_taken_from_sampling():
    [scored] = score(ScriptedLM(), call_at(1, loss_without_call=0.123))
    assert scored.loss_without_call == 0.123


def test_score_calls_reduction_is_the_better_alternative_minus_with_result():
    lm = ScriptedLM(losses={(WITH_RESULT, TEXT): [0.5] * 9, (WITH_EMPTY_RESULT, TEXT): [2.25] * 9})
    [scored] = score(lm, call_at(1, loss_without_call=3.0))
    assert scored.loss_reduction == pytest.approx(1.75)


def test_score_calls_position_zero_scores_the_first_tokens():
    lm = ScriptedLM(losses={(WITH_RESULT, TEXT): [3, 0, 0, 0, 0, 50, 50, 50, 50]})
    [scored] = score(lm, call_at(0))
    assert scored.loss_with_result == pytest.approx(1.0)


def test_score_calls_fewer_than_five_tokens_left_are_renormalised():
    lm = ScriptedLM(losses={(WITH_RESULT, TEXT): [50, 50, 50, 50, 50, 50, 50, 0.9, 1.8]})
    [scored] = score(lm, call_at(7))
    assert scored.loss_with_result == pytest.approx((5 * 0.9 + 4 * 1.8) / 9)


def test_score_calls_at_the_end_of_the_text_gain_nothing():
    [scored] = score(ScriptedLM(), call_at(9, loss_without_call=0.0))
    assert (scored.loss_with_result, scored.loss_with_empty_result) == (0.0, 0.0)
    assert scored.loss_reduction == 0.0


def test_score_calls_without_result_are_left_out():
    calls = [call_at(1, outcome=outcome) for outcome in Outcome]
    assert len(score(ScriptedLM(), *calls)) == 1


def test_score_calls_tell_whether_the_text_states_the_result():
    right, wrong = score(ScriptedLM(), call_at(7), call_at(7, result="92"))
    assert (right.is_right, wrong.is_right) == (True, False)


def test_score_calls_equal_the_slow_reference_at_every_position():
    lm = ScriptedLM()
    expected = [
        reference_verdict(lm, TEXT, i, ("Calculator", "34 + 57", "91"), 0.5) for i in range(10)
    ]
    calls = [call_at(i, loss_without_call=expected[i].loss_without_call) for i in range(10)]
    scored = score(lm, *calls)
    assert [s.loss_reduction for s in scored] == pytest.approx(
        [e.loss_reduction for e in expected], abs=1e-12
    )
    kept = [decision.kept for decision in filter_calls(scored, 0.5)]
    assert kept == [e.is_kept for e in expected]
    assert 0 < sum(kept) < 10


def test_score_calls_result_is_escaped_in_the_prefix():
    lm = ScriptedLM(losses={("[Calculator(34 + 57) -> 9\\]1]\n", TEXT): [2] * 9})
    [scored] = score(lm, call_at(8, result="9]1"))
    assert scored.loss_with_result == pytest.approx(2)


def test_filter_calls_at_the_threshold_is_kept():
    assert decide(loss_reduction=1.0) == (True, None)


def test_filter_calls_just_below_the_threshold_is_dropped():
    below = math.nextafter(1.0, 0.0)
    assert decide(loss_reduction=below) == (False, DropReason.BELOW_THRESHOLD)


@pytest.mark.parametrize("loss_reduction", [math.nan, math.inf, -math.inf])
def test_filter_calls_loss_that_is_no_number_is_not_finite(loss_reduction):
    assert decide(loss_reduction=loss_reduction) == (False, DropReason.NOT_FINITE)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
@pytest.mark.parametrize("prefix", [WITH_RESULT, WITH_EMPTY_RESULT])
def test_filter_calls_nan_from_the_model_is_not_finite(prefix, broken):
    lm = ScriptedLM(losses={(prefix, TEXT): [1.0, 1.0, broken, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]})
    [decision] = filter_calls(score(lm, call_at(1, loss_without_call=broken)), 0.0)
    assert (decision.kept, decision.drop_reason) == (False, DropReason.NOT_FINITE)


def test_filter_calls_counts_every_call_under_one_reason():
    reductions = [2.0, 1.0, 0.5, -3.0, math.nan, math.inf]
    decisions = filter_calls([scored_call(loss_reduction=r) for r in reductions], 1.0)
    reasons = Counter(decision.drop_reason for decision in decisions)
    assert reasons == {None: 2, DropReason.BELOW_THRESHOLD: 2, DropReason.NOT_FINITE: 2}


def test_filter_calls_record_the_threshold_in_force():
    [decision] = filter_calls([scored_call()], 0.75)
    assert decision.filtering_threshold == 0.75
