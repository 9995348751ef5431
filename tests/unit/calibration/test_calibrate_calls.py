"""When to call: the call rates predicted from one pass against those of real decoding."""

import pytest

from toolformer_core.benchmarks.base import Benchmark, BenchmarkItem, number_is_right
from toolformer_core.calibration.calibrate_calls import (
    CallRule,
    HalfScore,
    RuleScore,
    calibrate_decode,
    candidate_rules,
    recommend,
    starts_call,
    threshold_at,
)
from toolformer_core.calling.caller import ToolCaller
from toolformer_core.config.pipeline import DecodeConfig, ExecuteConfig
from toolformer_core.decoding.call_starts import StartTrace, trace_starts
from toolformer_core.decoding.decode import Decoder
from toolformer_core.errors import ConfigError
from toolformer_core.models import ModelRef
from toolformer_core.tools.base import NO_DOCUMENT
from toolformer_core.tools.calculator import Calculator
from toolformer_core.transformers_lm.loading import load_model

TOOLS = {"Calculator": ToolCaller(Calculator(), ExecuteConfig())}
CONFIG = DecodeConfig(max_new_tokens=12)
SUMS = [(a, b) for a in range(1, 10) for b in (2, 5, 7)]
PROMPTS = [
    *(f"{a} + {b} is" for a, b in SUMS),
    *("The mill", "The library", "7 / 0 is", "She bought 5 apples, and", "6 + 1", "Today"),
]


def opened(folder, token_budget=4096):
    return load_model(ModelRef(path=str(folder), digest="", dtype="float32"), "cpu", token_budget)


@pytest.fixture(scope="module")
def lm(calling_llama_folder):
    return opened(calling_llama_folder)


@pytest.fixture(scope="module")
def traces(lm):
    return trace_starts(lm, PROMPTS, CONFIG)


def decoded(lm, config, tools=TOOLS):
    return Decoder(lm, tools, config).generate(PROMPTS, [NO_DOCUMENT] * len(PROMPTS))


def called(generation):
    """Whether a call was started: it was run, or it could not be one."""
    return bool(generation.calls) or generation.num_malformed > 0


@pytest.mark.parametrize("call_top_k", [0, 1, 3, 10])
def test_starts_call_at_a_rank_is_what_decoding_does_for_every_item(lm, traces, call_top_k):
    config = CallRule(setting="call_top_k", value=call_top_k).applied(CONFIG)
    predicted = [starts_call(trace, config) for trace in traces]
    assert predicted == [called(g) for g in decoded(lm, config)]


@pytest.mark.parametrize("call_rate", [0.2, 0.7])
def test_starts_call_at_a_threshold_is_what_decoding_does_for_every_item(lm, traces, call_rate):
    threshold = threshold_at(traces, call_rate)
    config = CallRule(setting="call_threshold", value=threshold).applied(CONFIG)
    predicted = [starts_call(trace, config) for trace in traces]
    assert predicted == [called(g) for g in decoded(lm, config)]
    assert sum(predicted) / len(PROMPTS) == pytest.approx(call_rate, abs=1 / len(PROMPTS))


def test_starts_call_tells_items_apart_at_every_rank_tried(traces):
    # Else the tests above would compare all with all, or nothing with nothing.
    counts = [
        sum(starts_call(t, CONFIG.model_copy(update={"call_top_k": k})) for t in traces)
        for k in (1, 3, 10)
    ]
    assert 0 < counts[0] < counts[1] <= counts[2]


@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 1.0, "seed": 3}, {"stop": (" 1", "closed")}]
)
def test_trace_starts_answers_as_decoding_with_calls_forbidden(lm, settings):
    config = CONFIG.model_copy(update=settings)
    expected = [g.answer for g in decoded(lm, config, tools={})]
    assert [trace.answer for trace in trace_starts(lm, PROMPTS, config)] == expected


def test_trace_starts_in_small_batches_gives_the_same(calling_llama_folder, traces):
    small = trace_starts(opened(calling_llama_folder, token_budget=64), PROMPTS, CONFIG)
    assert [(t.answer, t.lowest_rank) for t in small] == [(t.answer, t.lowest_rank) for t in traces]
    assert [t.highest_probability for t in small] == pytest.approx(
        [t.highest_probability for t in traces], rel=1e-4
    )


def test_trace_starts_prompt_longer_than_the_context_is_refused(lm):
    with pytest.raises(ConfigError, match="leave the item out"):
        trace_starts(lm, ["mill " * lm.context_tokens], CONFIG)


def trace(probability, rank=0):
    return StartTrace(answer="", lowest_rank=rank, highest_probability=probability)


def test_threshold_at_a_rate_lies_between_two_items():
    assert threshold_at([trace(p) for p in (0.1, 0.9, 0.3, 0.5)], 0.5) == 0.4


@pytest.mark.parametrize(("call_rate", "expected"), [(0.0, 0.95), (1.0, 0.05)])
def test_threshold_at_the_ends_lets_none_or_all_call(call_rate, expected):
    assert threshold_at([trace(p) for p in (0.1, 0.9)], call_rate) == expected


def test_threshold_at_equal_probabilities_takes_the_nearest_rate_that_there_is():
    traces = [trace(0.2)] * 3 + [trace(0.6)]
    threshold = threshold_at(traces, 0.5)
    assert sum(t.highest_probability >= threshold for t in traces) == 1


def test_candidate_rules_hold_ranks_thresholds_and_the_target():
    traces = [trace(p / 100) for p in range(1, 100)]
    rules = candidate_rules(traces, 0.37)
    ranks = [rule.value for rule in rules if rule.setting == "call_top_k"]
    thresholds = [rule.value for rule in rules if rule.setting == "call_threshold"]
    assert ranks == [1, 3, 10]
    assert thresholds == sorted(thresholds, reverse=True)
    assert threshold_at(traces, 0.37) in thresholds


def test_call_rule_threshold_lets_calls_start_where_they_were_disabled():
    rule = CallRule(setting="call_threshold", value=0.2)
    config = rule.applied(DecodeConfig(call_top_k=0))
    assert starts_call(trace(0.3, rank=50), config)


def score(setting, value, call_rate, gain):
    half = HalfScore(
        num_items=50, call_rate=call_rate, accuracy=0.5, low=0.4, high=0.6, gain_per_call=gain
    )
    return RuleScore(rule=CallRule(setting=setting, value=value), deciding=half, checking=half)


def test_recommend_target_takes_the_nearest_call_rate_and_a_threshold_of_equals():
    scores = [
        score("call_threshold", 0.5, 0.1, 0.9),
        score("call_threshold", 0.2, 0.3, -0.2),
        score("call_top_k", 3, 0.3, 0.1),
    ]
    assert recommend(scores, 0.32) is scores[1]


def test_recommend_best_gain_passes_over_a_gain_of_too_few_calls():
    scores = [score("call_threshold", 0.9, 0.04, 1.0), score("call_top_k", 1, 0.2, 0.3)]
    assert recommend(scores, None) is scores[1]


def test_recommend_no_gain_recommends_nothing():
    assert recommend(
        [score("call_top_k", 10, 0.9, 0.0), score("call_top_k", 1, 0, None)], None
    ) is (None)


def benchmark(pairs):
    items = [
        BenchmarkItem(item_id=str(k), prompt=f"{a} + {b} is", gold=(str(a + b),), date=None)
        for k, (a, b) in enumerate(pairs)
    ]
    return Benchmark(
        name="sums", metric="first number", items=tuple(items), is_right=number_is_right
    )


def test_calibrate_decode_scores_are_those_of_decoding_all_items(lm):
    sums = benchmark(SUMS)
    found = calibrate_decode(lm, sums, TOOLS, CONFIG, target_call_rate=0.5)
    for row in found.scores:
        config = row.rule.applied(CONFIG) if row.rule else CONFIG
        decoder = Decoder(lm, TOOLS if row.rule else {}, config)
        answers = decoder.generate([i.prompt for i in sums.items], [NO_DOCUMENT] * len(SUMS))
        right = sum(
            number_is_right(a.answer, i.gold) for a, i in zip(answers, sums.items, strict=True)
        )
        halves = (row.deciding, row.checking)
        assert sum(half.accuracy * half.num_items for half in halves) == pytest.approx(right)
        calls = sum(half.call_rate * half.num_items for half in halves)
        assert calls == pytest.approx(sum(map(called, answers)))
    assert found.scores[0].rule is None
    assert found.recommended in found.scores[1:]


def test_calibrate_decode_gain_is_right_answers_more_per_item_that_calls(lm):
    found = calibrate_decode(lm, benchmark(SUMS), TOOLS, CONFIG, target_call_rate=None)
    for row in found.scores[1:]:
        for half, plain in zip(
            (row.deciding, row.checking),
            (found.scores[0].deciding, found.scores[0].checking),
            strict=True,
        ):
            more = (half.accuracy - plain.accuracy) * half.num_items
            calls = half.call_rate * half.num_items
            assert (half.gain_per_call or 0.0) * calls == pytest.approx(more)


def test_calibrate_decode_too_few_items_are_refused(lm):
    with pytest.raises(ConfigError, match="sums has 3 items"):
        calibrate_decode(lm, benchmark(SUMS[:3]), TOOLS, CONFIG, None)
