"""Zero-shot evaluation of the base and the tuned model (paper, section 4).

Arms: "base" (M, plain decoding), "disabled" (M*, <API> forbidden, footnote 5), "on" (M* with
tools). The answer that is judged has its calls taken out. Every value comes with an interval over
items, which the paper lacks.
"""

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from toolformer_core.benchmarks.base import Benchmark
from toolformer_core.calling import Caller
from toolformer_core.config import Arm, DecodeConfig
from toolformer_core.decode import Decoder
from toolformer_core.hf_lm import HFLanguageModel
from toolformer_core.records import EvaluatedItem
from toolformer_core.tools.base import CallContext

STAGE_VERSION = 3
_NUM_RESAMPLES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmScore:
    """One row of the evaluation table; low and high bound 95% of bootstrap means."""

    benchmark: str
    arm: str
    metric: str
    value: float
    low: float
    high: float
    n: int
    call_rate: float
    malformed_rate: float


def evaluate_arm(
    lm: HFLanguageModel,
    benchmark: Benchmark,
    arm: Arm,
    tools: Mapping[str, Caller],
    config: DecodeConfig,
) -> list[EvaluatedItem]:
    """Every item of a benchmark answered by one arm; `lm` is the model of that arm."""
    decoder = Decoder(
        lm,
        tools if arm == "on" else {},
        config,
        forbids_calls=arm != "base",
    )
    contexts = [
        CallContext(document_id=item.item_id, url=None, date=item.date) for item in benchmark.items
    ]
    started = time.perf_counter()
    generations = decoder.generate([item.prompt for item in benchmark.items], contexts)
    latency = (time.perf_counter() - started) / max(1, len(contexts))
    return [
        EvaluatedItem(
            benchmark=benchmark.name,
            arm=arm,
            item_id=item.item_id,
            prompt=item.prompt,
            completion=generation.completion,
            gold=item.gold,
            score=float(benchmark.is_right(generation.answer, item.gold)),
            num_calls=len(generation.calls),
            num_malformed=generation.num_malformed,
            calls=tuple(f"{c.tool}({c.argument}) -> {c.result}" for c in generation.calls),
            latency_seconds=latency,
        )
        for item, generation in zip(benchmark.items, generations, strict=True)
    ]


def score_arm(items: Sequence[EvaluatedItem], metric: str, seed: int) -> ArmScore:
    """The mean score of one arm on one benchmark with a 95% bootstrap interval."""
    scores = [item.score for item in items]
    low, high = bootstrap_interval(scores, seed)
    return ArmScore(
        benchmark=items[0].benchmark,
        arm=items[0].arm,
        metric=metric,
        value=sum(scores) / len(scores),
        low=low,
        high=high,
        n=len(scores),
        call_rate=sum(item.num_calls > 0 for item in items) / len(items),
        malformed_rate=sum(item.num_malformed > 0 for item in items) / len(items),
    )


def bootstrap_interval(scores: Sequence[float], seed: int) -> tuple[float, float]:
    """2.5% and 97.5% quantiles of the mean over resampled items."""
    rng = random.Random(f"bootstrap-{seed}")
    means = sorted(
        sum(rng.choices(scores, k=len(scores))) / len(scores) for _ in range(_NUM_RESAMPLES)
    )
    return means[round(0.025 * _NUM_RESAMPLES)], means[round(0.975 * _NUM_RESAMPLES) - 1]
