"""Scores of arms by hand, and every arm on a real model that calls."""

import dataclasses
import math

import pytest

from tests.support.builders import evaluated_item
from tests.support.tiny_model import SUMS
from toolformer_core.benchmarks.base import Benchmark, BenchmarkItem, number_is_right
from toolformer_core.calling.caller import ToolCaller
from toolformer_core.calling.wrong_caller import WrongCaller
from toolformer_core.config.pipeline import DecodeConfig, ExecuteConfig
from toolformer_core.evaluate import (
    Contestant,
    arm_decoding,
    evaluate_items,
    score_arms,
    takes_part,
)
from toolformer_core.evaluation.intervals import bootstrap_interval, weighted_mean
from toolformer_core.models import ModelRef
from toolformer_core.records import Outcome
from toolformer_core.tools.calculator import Calculator
from toolformer_core.transformers_lm.loading import load_model


def items_of(arm, *scores, **fields):
    return [
        evaluated_item(arm=arm, item_id=str(n), score=float(score), **fields)
        for n, score in enumerate(scores)
    ]


def test_score_arms_by_hand():
    # 4 items: 3 right (3/4 = 0.75); calls in 2 (0.5), of which one has 2; malformed in 1 (0.25).
    items = [
        evaluated_item(score=1.0, num_calls=2, tool_seconds=0.5),
        evaluated_item(score=1.0, num_calls=1, num_malformed=3, tool_seconds=0.1),
        evaluated_item(score=1.0, num_calls=0, num_malformed=0, tool_seconds=0.0),
        evaluated_item(score=0.0, num_calls=0, num_malformed=0, tool_seconds=0.0, num_tokens=3),
    ]
    [score] = score_arms(items, "first number is right", "answer", 0)
    assert (score.benchmark, score.arm, score.n) == ("word_problems", "on", 4)
    assert score.metric == "first number is right"
    assert (score.value, score.call_rate, score.malformed_rate) == (0.75, 0.5, 0.25)
    assert score.calls_per_item == 0.75
    assert score.tool_seconds_per_call == pytest.approx(0.2)
    assert score.tokens_per_item == pytest.approx((4 * 12 + 3 * 15 + 3) / 4)
    interval = bootstrap_interval([[1.0, 1.0, 1.0, 0.0], [1.0] * 4], weighted_mean, 0)
    assert (score.low, score.high) == interval
    assert (score.difference, score.p_value) == (None, None)


def test_score_arms_compares_with_disabled_item_by_item():
    # on is right where disabled is not 5 times, never the other way: p = 2 / 2^5.
    items = [
        *items_of("disabled", 1, 0, 0, 0, 0, 0),
        *items_of("on", 1, 1, 1, 1, 1, 1)[::-1],
    ]
    disabled, on = score_arms(items, "m", "answer", 0)
    assert disabled.difference is None
    assert on.difference == pytest.approx(5 / 6)
    assert on.p_value == pytest.approx(2 / 32)
    assert 0 < on.difference_low < 5 / 6 < on.difference_high <= 1


def test_score_arms_of_perplexity_weighs_by_tokens():
    # (2 nats * 10 tokens + 4 nats * 30) / 40 = 3.5; disabled: (1 * 10 + 3 * 30) / 40 = 2.5.
    base = [
        evaluated_item(arm="base", item_id="a", score=2.0, weight=10),
        evaluated_item(arm="base", item_id="b", score=4.0, weight=30),
    ]
    disabled = [dataclasses.replace(item, arm="disabled", score=item.score - 1.0) for item in base]
    one, other = score_arms([*base, *disabled], "perplexity", "perplexity", 0)
    assert one.value == pytest.approx(math.exp(3.5))
    assert other.value == pytest.approx(math.exp(2.5))
    assert one.difference == pytest.approx(math.exp(3.5) - math.exp(2.5))
    assert one.p_value is None
    assert (one.low, one.high) == pytest.approx((math.exp(2.0), math.exp(4.0)))


def test_score_arms_of_no_items_is_empty():
    assert score_arms([], "m", "answer", 0) == []


@pytest.mark.parametrize(
    ("kind", "arms"),
    [
        ("answer", "base base_c disabled on wrong few_shot"),
        ("perplexity", "base base_c disabled"),
        ("call_rate", "on few_shot"),
    ],
)
def test_takes_part_where_the_arm_can_differ(kind, arms):
    every = ("base", "base_c", "disabled", "on", "wrong", "few_shot")
    assert [arm for arm in every if takes_part(arm, kind)] == arms.split()


def test_arm_decoding_without_calls_does_not_change_with_them():
    one = DecodeConfig(call_top_k=3, max_calls=2, forced_tool="Calculator", max_new_tokens=9)
    other = DecodeConfig(call_threshold=0.5, max_call_tokens=9, max_new_tokens=9)
    for arm in ("base", "base_c", "disabled"):
        assert arm_decoding(arm, one, 10) == arm_decoding(arm, other, 5)
        assert arm_decoding(arm, one, 10).max_new_tokens == 9
    for arm in ("on", "wrong"):
        assert arm_decoding(arm, one, 10) == one


@pytest.mark.parametrize(
    ("given", "on"),
    [
        ({}, (1, None)),
        ({"call_top_k": 3}, (3, None)),
        ({"call_threshold": 0.3}, (1, 0.3)),
        ({"call_top_k": 10, "call_threshold": 0.3}, (10, 0.3)),
    ],
)
def test_arm_decoding_few_shot_has_a_rank_of_its_own_and_never_the_threshold(given, on):
    for arm, expected in (("on", on), ("wrong", on), ("few_shot", (7, None))):
        decode = arm_decoding(arm, DecodeConfig(**given), 7)
        assert (decode.call_top_k, decode.call_threshold) == expected


@pytest.fixture(scope="module")
def lm(calling_llama_folder):
    reference = ModelRef(path=str(calling_llama_folder), digest="calls", dtype="float32")
    return load_model(reference, "cpu", 4096)


SUMS_BENCHMARK = Benchmark(
    name="sums",
    metric="first number is right",
    items=tuple(
        BenchmarkItem(item_id=f"{a}+{b}", prompt=f"{a} + {b} is", gold=(str(a + b),), date=None)
        for a, b in SUMS
    ),
    is_right=number_is_right,
)


def answer(lm, arm, caller=None, benchmark=SUMS_BENCHMARK):
    contestant = Contestant(
        arm=arm,
        model="calls",
        lm=lm,
        tools={"Calculator": caller} if caller else {},
        decode=arm_decoding(arm, DecodeConfig(call_top_k=1, max_new_tokens=30), 1),
        context_tokens=64,
    )
    return evaluate_items(contestant, benchmark)


@pytest.fixture
def calculator():
    return ToolCaller(Calculator(), ExecuteConfig())


def test_evaluate_items_on_calls_and_is_right(lm, calculator):
    for item, (a, b) in zip(answer(lm, "on", calculator), SUMS, strict=True):
        assert (item.score, item.num_calls, item.call_top_k) == (1.0, 1, 1)
        [call] = item.calls
        assert (call.tool, call.argument, call.result) == ("Calculator", f"{a} + {b}", str(a + b))
        assert item.completion[call.char_offset :].startswith(" [Calculator(")
        assert "[" not in item.answer
        assert item.num_tokens > 0 < item.num_prompt_tokens


def test_evaluate_items_disabled_writes_no_bracket(lm):
    for item in answer(lm, "disabled"):
        assert (item.num_calls, item.calls, item.call_top_k) == (0, (), 0)
        assert "[" not in item.completion == item.answer


def test_evaluate_items_base_may_write_brackets_as_text(lm):
    assert any("[" in item.completion for item in answer(lm, "base"))


def test_evaluate_items_wrong_result_misleads(lm, calculator):
    pool = tuple(str(a + b) for a, b in SUMS)
    for item, (a, b) in zip(answer(lm, "wrong", WrongCaller(calculator, pool)), SUMS, strict=True):
        [call] = item.calls
        assert call.outcome is Outcome.OK
        assert call.result in pool
        assert call.result != str(a + b)
        assert call.result in item.completion


def test_evaluate_items_few_shot_shows_the_tool_first(lm, calculator):
    shown, plain = answer(lm, "few_shot", calculator), answer(lm, "on", calculator)
    for with_demonstrations, without in zip(shown, plain, strict=True):
        assert with_demonstrations.prompt == without.prompt
        assert with_demonstrations.num_prompt_tokens > without.num_prompt_tokens + 40


def test_evaluate_items_call_rate_counts_calls(lm, calculator):
    calls = dataclasses.replace(SUMS_BENCHMARK, kind="call_rate")
    assert [item.score for item in answer(lm, "on", calculator, calls)] == [1.0] * len(SUMS)


def test_evaluate_items_perplexity_reads_and_generates_nothing(lm):
    texts = Benchmark(
        name="texts",
        metric="perplexity",
        items=tuple(
            BenchmarkItem(item_id=str(n), prompt=text, gold=(), date=None)
            for n, text in enumerate(["3 + 4 is 7.", "", "The mill is closed."])
        ),
        is_right=number_is_right,
        kind="perplexity",
    )
    found = answer(lm, "base", benchmark=texts)
    assert [item.item_id for item in found] == ["0", "2"]  # an empty text has no loss
    assert all(item.score > 0 and item.completion == "" for item in found)
    assert [item.weight for item in found] == [len(lm.encode(i.prompt)) for i in found]
