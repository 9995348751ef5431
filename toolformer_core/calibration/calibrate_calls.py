"""When to start a call: call_top_k, or a threshold on p(<API>), chosen on a benchmark.

The paper fixes k = 10 (section 4.2) and shows in Table 9 how much hangs on it. One pass with calls
forbidden gives the call rate of every rule, exactly (call_starts.py). Only the items that call are
decoded again, with their tools, to learn what they then answer; for all others nothing changes.

Half of the items decide, the other half check: nothing is chosen by what is reported of these.
Choice: thresholds are tried at given call rates, since a probability that is high for one model is
low for another. At the same call rate a threshold is preferred to a rank, which moves more.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from toolformer_core.benchmarks.base import Benchmark, BenchmarkItem
from toolformer_core.call_rule import CallRule
from toolformer_core.calling.caller import Caller
from toolformer_core.config.pipeline import DecodeConfig
from toolformer_core.decoding.call_starts import StartTrace, trace_starts
from toolformer_core.decoding.start_rule import is_call_start
from toolformer_core.errors import ConfigError
from toolformer_core.evaluate import Contestant, evaluate_items
from toolformer_core.evaluation.intervals import bootstrap_interval
from toolformer_core.progress import tracked
from toolformer_core.records import digest
from toolformer_core.transformers_lm.adapter import HFLanguageModel

RANKS = (1, 3, 10)
"""call_top_k to be tried (paper, Table 9)."""
CALL_RATES = (0.05, 0.1, 0.3, 0.5, 0.8)
"""Shares of calling items at which a threshold is tried."""
MIN_ITEMS = 4
MIN_CALLING_ITEMS = 5
"""Of the deciding half: a gain of fewer is an accident."""

_SEED = 0  # of the bootstrap


@dataclass(frozen=True, slots=True, kw_only=True)
class HalfScore:
    """What a rule gives on half of the items; low and high bound 95% of bootstrap means."""

    num_items: int
    call_rate: float
    accuracy: float
    low: float
    high: float
    gain_per_call: float | None  # right items more than with calls disabled, per item that calls


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleScore:
    """One row of the table; rule None: calls disabled."""

    rule: CallRule | None
    deciding: HalfScore
    checking: HalfScore


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeCalibration:
    """The table, and the row that the deciding half chose; None if no rule gains anything."""

    benchmark: str
    metric: str
    scores: tuple[RuleScore, ...]
    recommended: RuleScore | None


def calibrate_decode(
    lm: HFLanguageModel,
    benchmark: Benchmark,
    tools: Mapping[str, Caller],
    config: DecodeConfig,
    target_call_rate: float | None,
) -> DecodeCalibration:
    """The rule whose call rate is nearest to the target; without one, the best gain per call.

    Raises: ConfigError for a benchmark with too few items to be halved.
    """
    if len(benchmark.items) < MIN_ITEMS:
        raise ConfigError(
            f"benchmark {benchmark.name} has {len(benchmark.items)} items; half of them decide, "
            f"the other half check: at least {MIN_ITEMS} are needed, hundreds tell more"
        )
    # By digest, because sets often lie sorted by kind of question.
    items = sorted(benchmark.items, key=lambda item: digest("half", item.item_id))
    traces = trace_starts(lm, [item.prompt for item in items], config)
    plain = [
        float(benchmark.is_right(trace.answer, item.gold))
        for trace, item in zip(traces, items, strict=True)
    ]
    rules = candidate_rules(traces[: len(items) // 2], target_call_rate)
    scores = [_score(None, plain, plain, [False] * len(items))]
    for rule in tracked(rules, "calibrate-calls", unit="rule"):
        settings = rule.applied(config)
        calls = [starts_call(trace, settings) for trace in traces]
        calling = [item for item, is_calling in zip(items, calls, strict=True) if is_calling]
        answered = iter(_answered(lm, benchmark, calling, tools, settings))
        right = [next(answered) if c else p for c, p in zip(calls, plain, strict=True)]
        scores.append(_score(rule, right, plain, calls))
    return DecodeCalibration(
        benchmark=benchmark.name,
        metric=benchmark.metric,
        scores=tuple(scores),
        recommended=recommend(scores[1:], target_call_rate),
    )


def starts_call(trace: StartTrace, config: DecodeConfig) -> bool:
    """Whether the item starts a call under these settings."""
    can_call = config.max_calls > 0 and config.top_k > 0
    return can_call and is_call_start(trace.lowest_rank, trace.highest_probability, config)


def candidate_rules(
    traces: Sequence[StartTrace], target_call_rate: float | None = None
) -> list[CallRule]:
    """The thresholds that give the call rates of CALL_RATES and the target, then the ranks."""
    rates = {*CALL_RATES, *([] if target_call_rate is None else [target_call_rate])}
    thresholds = {threshold_at(traces, rate) for rate in rates}
    return [
        *(CallRule(setting="call_threshold", value=t) for t in sorted(thresholds, reverse=True)),
        *(CallRule(setting="call_top_k", value=k) for k in RANKS),
    ]


def threshold_at(traces: Sequence[StartTrace], call_rate: float) -> float:
    """The threshold, to four digits, whose call rate on these items is nearest to the wanted one.

    It lies half-way between two items, so that rounding in another batch changes no verdict.
    """
    reached = sorted((trace.highest_probability for trace in traces), reverse=True)
    ends = [1.0, *reached, 0.0]
    between = {float(f"{(a + b) / 2:.4g}") for a, b in itertools.pairwise(ends)} - {0.0}

    def distance(threshold: float) -> tuple[float, float]:
        rate = sum(p >= threshold for p in reached) / len(reached)
        return abs(rate - call_rate), -threshold

    return min(between, key=distance)


def recommend(scores: Sequence[RuleScore], target_call_rate: float | None) -> RuleScore | None:
    """The row that the deciding half chooses; of equal ones the first."""
    if target_call_rate is not None:
        return min(scores, key=lambda s: abs(s.deciding.call_rate - target_call_rate))
    gains = [
        (score.deciding.gain_per_call, score)
        for score in scores
        if score.deciding.gain_per_call is not None
        and round(score.deciding.call_rate * score.deciding.num_items) >= MIN_CALLING_ITEMS
    ]
    gain, best = max(gains, key=lambda pair: pair[0], default=(0.0, None))
    return best if gain > 0 else None


def _answered(
    lm: HFLanguageModel,
    benchmark: Benchmark,
    items: Sequence[BenchmarkItem],
    tools: Mapping[str, Caller],
    config: DecodeConfig,
) -> list[float]:
    """Whether each of the items is answered rightly with tools, 1 or 0."""
    contestant = Contestant(
        arm="on", model="", lm=lm, tools=tools, decode=config, context_tokens=lm.context_tokens
    )
    part = dataclasses.replace(benchmark, items=tuple(items))
    return [item.score for item in evaluate_items(contestant, part)]


def _score(
    rule: CallRule | None, right: Sequence[float], plain: Sequence[float], calls: Sequence[bool]
) -> RuleScore:
    """The figures of one rule on both halves."""
    halves = []
    for part in (slice(0, len(right) // 2), slice(len(right) // 2, None)):
        num_items, num_calling = len(right[part]), sum(calls[part])
        low, high = bootstrap_interval([right[part]], np.mean, _SEED)
        gain = sum(right[part]) - sum(plain[part])
        halves.append(
            HalfScore(
                num_items=num_items,
                call_rate=num_calling / num_items,
                accuracy=sum(right[part]) / num_items,
                low=low,
                high=high,
                gain_per_call=gain / num_calling if num_calling else None,
            )
        )
    return RuleScore(rule=rule, deciding=halves[0], checking=halves[1])
