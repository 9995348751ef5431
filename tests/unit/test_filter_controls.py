"""Controls of the filter: which results are tried in a call's place, and what they decide."""

import math
import random

import pytest

from tests.support.builders import document, executed_call, scored_call
from tests.support.scripted_lm import ScriptedLM
from toolformer_core.config.pipeline import ScoreConfig
from toolformer_core.controls import POOL_SIZE
from toolformer_core.filter import filter_calls, result_pool, score_calls
from toolformer_core.records import DropReason, Outcome
from toolformer_core.tools.calculator import Calculator

TEXT = "Of 34 and 57 the sum is 91 ."  # tokens: Of 34 and 57 the sum is 91 .
DOCUMENTS = {"document-1": document(text=TEXT)}
BOTH = ScoreConfig(controls=("wrong_result", "shuffled_result"))


def prefix(result):
    return (f"[Calculator(34 + 57) -> {result}]\n", TEXT)


def losses(**by_result):
    """A model that knows these losses, the same for each token; else 4."""
    known = {"empty": 4.0, **by_result}
    texts = {"empty": ""} | {name: name.removeprefix("r") for name in by_result}
    return ScriptedLM(losses={prefix(texts[name]): [loss] * 9 for name, loss in known.items()})


def call(**fields):
    offset = ScriptedLM().tokenize(TEXT).char_offsets[7]
    defaults = {"token_index": 7, "char_offset": offset, "loss_without_call": 5.0}
    return executed_call(**{**defaults, **fields})


def score(lm, *calls, config=BOTH, prune_below=0.0, pool=("91", "7")):
    return score_calls(
        calls, DOCUMENTS, lm, Calculator(), config, prune_below=prune_below, result_pool=pool
    )


def reason(lm, **settings):
    [decision] = filter_calls(score(lm, call(), **settings), 1.0)
    assert decision.kept == (decision.drop_reason is None)
    return decision.drop_reason


def test_controls_measure_another_result_and_the_own_one_shuffled():
    [scored] = score(losses(r91=1.0, r7=2.0, r19=3.0), call())
    assert scored.loss_with_wrong_result == pytest.approx(2.0)
    assert scored.loss_with_shuffled_result == pytest.approx(3.0)


def test_controls_that_help_less_keep_the_call():
    assert reason(losses(r91=1.0, r7=2.0, r19=3.0)) is None


def test_controls_wrong_result_that_helps_as_much_drops_the_call():
    assert reason(losses(r91=1.0, r7=1.0, r19=3.0)) is DropReason.WRONG_RESULT


def test_controls_shuffled_result_that_helps_more_drops_the_call():
    assert reason(losses(r91=1.0, r7=2.0, r19=0.5)) is DropReason.SHUFFLED_RESULT


def test_controls_not_asked_for_are_not_measured():
    [scored] = score(losses(r91=1.0, r7=0.0, r19=0.0), call(), config=ScoreConfig())
    assert scored.loss_with_wrong_result is None
    assert scored.loss_with_shuffled_result is None


def test_controls_without_another_result_or_order_are_beaten():
    lm = ScriptedLM(losses={("[Calculator(34 + 57) -> 9]\n", TEXT): [1.0] * 9})
    calls = [call(result="9", loss_without_call=5.0)]
    [scored] = score_calls(calls, DOCUMENTS, lm, Calculator(), BOTH, result_pool=("9",))
    assert scored.loss_with_wrong_result is None
    assert scored.loss_with_shuffled_result is None


def test_controls_that_are_no_number_drop_the_call():
    assert reason(losses(r91=1.0, r7=math.nan, r19=3.0)) is DropReason.WRONG_RESULT


def test_controls_below_the_lowest_threshold_are_not_measured():
    [scored] = score(losses(r91=3.5, r7=0.0, r19=0.0), call(), prune_below=1.0)
    assert scored.loss_reduction == pytest.approx(0.5)
    assert scored.loss_with_wrong_result is None


@pytest.mark.parametrize("threshold", [0.25, 0.5, 1.0, 2.0])
def test_controls_with_pruning_keep_the_same_calls(threshold):
    calls = [
        call(candidate_id=f"{i}-{n}", token_index=i, argument=f"{n} + {i}", result=str(n + i))
        for i in range(9)
        for n in range(12)
    ]
    pool = result_pool(calls)
    decided = []
    for prune_below in (-math.inf, 0.0, threshold):
        scored = score(ScriptedLM(), *calls, prune_below=prune_below, pool=pool)
        decisions = filter_calls(scored, threshold)
        decided.append([d.candidate_id for d in decisions if d.kept])
    assert decided[0] == decided[1] == decided[2]
    assert 0 < len(decided[0]) < len(calls)


def test_result_pool_does_not_depend_on_shards_or_order():
    calls = [call(candidate_id=str(n), result=str(n % 150)) for n in range(400)]
    pool = result_pool(calls)
    assert len(pool) == POOL_SIZE
    shuffled = random.Random(0).sample(calls, k=len(calls))
    assert result_pool(shuffled) == pool
    assert result_pool([*calls, call(result="no", outcome=Outcome.EMPTY)]) == pool


def test_shuffled_result_has_the_same_words_in_another_order():
    lm = ScriptedLM()
    seen = []
    original = lm.token_losses

    class Spy:
        context_tokens = lm.context_tokens
        tokenize = staticmethod(lm.tokenize)

        @staticmethod
        def token_losses(requests):
            seen.extend(request.prefix for request in requests)
            return original(requests)

    result = "Today is Monday, May 3, 2021."
    score_calls(
        [call(result=result, loss_without_call=99.0)],
        DOCUMENTS,
        Spy(),
        Calculator(),
        ScoreConfig(controls=("shuffled_result",)),
        prune_below=-math.inf,
    )
    shuffled = seen[-1].split(" -> ")[1].removesuffix("]\n")
    assert shuffled != result
    assert sorted(shuffled.split()) == sorted(result.split())


@pytest.mark.parametrize("control", ["loss_with_wrong_result", "loss_with_shuffled_result"])
def test_filter_calls_below_the_threshold_comes_before_controls(control):
    [decision] = filter_calls([scored_call(loss_reduction=0.5, **{control: 0.0})], 1.0)
    assert decision.drop_reason is DropReason.BELOW_THRESHOLD
