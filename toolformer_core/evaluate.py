"""Zero-shot evaluation of a tuned model against its controls (paper, section 4).

Arms: "base" (M, plain decoding), "base_c" (M fine-tuned on C without calls), "disabled" (M*, <API>
forbidden, footnote 5), "on" (M* with tools), and two that the paper lacks: "wrong" (as on, with the
results of other calls) and "few_shot" (M shown how tools are used). The answer that is judged has
its calls taken out. Every value comes with an interval over items, every arm is compared with
"disabled" on the same items.

Choice: perplexity is that of the plain model in every arm. With <API> forbidden a text that holds a
bracket would have none (paper, footnote 8, leaves calls out).
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from toolformer_core.benchmarks.base import Benchmark, BenchmarkItem, Kind
from toolformer_core.calling.caller import Caller
from toolformer_core.config.pipeline import Arm, DecodeConfig
from toolformer_core.decoding.decode import Decoder
from toolformer_core.decoding.events import Generation
from toolformer_core.errors import ConfigError
from toolformer_core.evaluation.few_shot import few_shot_prefix
from toolformer_core.evaluation.intervals import Array, bootstrap_interval, mcnemar, weighted_mean
from toolformer_core.records import EvaluatedCall, EvaluatedItem
from toolformer_core.tools.base import CallContext
from toolformer_core.transformers_lm.adapter import HFLanguageModel
from toolformer_core.transformers_lm.perplexity import rolling_losses

STAGE_VERSION = 5

CALLING_ARMS: tuple[Arm, ...] = ("on", "wrong", "few_shot")
_ARMS_OF: Mapping[Kind, tuple[Arm, ...]] = {
    "answer": ("base", "base_c", "disabled", "on", "wrong", "few_shot"),
    "perplexity": ("base", "base_c", "disabled"),
    "call_rate": ("on", "few_shot"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """What answers: the model of an arm, what answers its calls, and how it decodes."""

    arm: Arm
    model: str  # digest
    lm: HFLanguageModel
    tools: Mapping[str, Caller]
    decode: DecodeConfig
    context_tokens: int  # window of perplexity


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmScore:
    """One row of the evaluation table; low and high bound 95% of bootstrapped values.

    `difference` is that to arm disabled on the same items, `p_value` that of McNemar's exact test;
    None where there is nothing to compare.
    """

    benchmark: str
    arm: str
    metric: str
    value: float
    low: float
    high: float
    n: int
    call_rate: float
    malformed_rate: float
    calls_per_item: float
    tool_seconds_per_call: float
    tokens_per_item: float
    difference: float | None
    difference_low: float | None
    difference_high: float | None
    p_value: float | None


def takes_part(arm: Arm, kind: Kind) -> bool:
    """Whether a benchmark of this kind tells anything of an arm."""
    return arm in _ARMS_OF[kind]


def arm_decoding(arm: Arm, decode: DecodeConfig, few_shot_top_k: int) -> DecodeConfig:
    """The settings that the arm depends on; those of calls are neutral where there are none.

    Choice: few_shot has a k of its own, whatever was chosen for M*: an untrained model seldom has
    "[" first, and a control that never calls would be none.
    """
    if arm == "few_shot":
        return decode.model_copy(update={"call_top_k": few_shot_top_k, "call_threshold": None})
    if arm in CALLING_ARMS:
        return decode.model_copy(update={"call_top_k": decode.top_k})
    return DecodeConfig(
        call_top_k=0,
        max_calls=0,
        max_new_tokens=decode.max_new_tokens,
        max_words=decode.max_words,
        temperature=decode.temperature,
        top_p=decode.top_p,
        seed=decode.seed,
        stop=decode.stop,
    )


def evaluate_items(contestant: Contestant, benchmark: Benchmark) -> list[EvaluatedItem]:
    """Every item of the benchmark, answered."""
    if benchmark.kind == "perplexity":
        return _read(contestant, benchmark)
    return _answered(contestant, benchmark)


def _answered(contestant: Contestant, benchmark: Benchmark) -> list[EvaluatedItem]:
    shown = few_shot_prefix(contestant.tools) if contestant.arm == "few_shot" else ""
    decoder = Decoder(
        contestant.lm,
        contestant.tools,
        contestant.decode,
        forbids_calls=contestant.arm not in ("base", "base_c"),
        prefix=shown,
    )
    contexts = [
        CallContext(document_id=item.item_id, url=None, date=item.date) for item in benchmark.items
    ]
    prompts = [shown + item.prompt for item in benchmark.items]
    _check_lengths(contestant, benchmark, prompts)
    started = time.perf_counter()
    generations = decoder.generate(prompts, contexts)
    latency = (time.perf_counter() - started) / max(1, len(contexts))
    return [
        _answer_record(contestant, benchmark, item, generation, latency)
        for item, generation in zip(benchmark.items, generations, strict=True)
    ]


def _check_lengths(contestant: Contestant, benchmark: Benchmark, prompts: Sequence[str]) -> None:
    """Refuse a benchmark that the model cannot take whole: arms are compared on the same items."""
    lm = contestant.lm
    for item, prompt in zip(benchmark.items, prompts, strict=True):
        num_tokens = len(lm.encode(prompt)) + 1
        if num_tokens >= lm.context_tokens:
            raise ConfigError(
                f"benchmark {benchmark.name}, item {item.item_id}, arm {contestant.arm}: a prompt "
                f"of {num_tokens} tokens; the model takes {lm.context_tokens}; leave out the item, "
                "or the arm"
            )


def _answer_record(
    contestant: Contestant,
    benchmark: Benchmark,
    item: BenchmarkItem,
    generation: Generation,
    latency_seconds: float,
) -> EvaluatedItem:
    calls = generation.calls
    is_right = (
        len(calls) > 0
        if benchmark.kind == "call_rate"
        else benchmark.is_right(generation.answer, item.gold)
    )
    return EvaluatedItem(
        benchmark=benchmark.name,
        arm=contestant.arm,
        model=contestant.model,
        call_top_k=contestant.decode.top_k if contestant.tools else 0,
        item_id=item.item_id,
        prompt=item.prompt,
        completion=generation.completion,
        answer=generation.answer,
        gold=item.gold,
        score=float(is_right),
        weight=1,
        num_calls=len(calls),
        num_malformed=generation.num_malformed,
        calls=tuple(
            EvaluatedCall(
                tool=call.tool,
                argument=call.argument,
                result=call.result,
                outcome=call.outcome,
                char_offset=call.char_offset,
            )
            for call in calls
        ),
        num_prompt_tokens=generation.num_prompt_tokens,
        num_tokens=len(generation.token_ids),
        tool_seconds=sum(call.latency_seconds for call in calls),
        latency_seconds=latency_seconds,
    )


def _read(contestant: Contestant, benchmark: Benchmark) -> list[EvaluatedItem]:
    """The mean loss of every text; the model reads, and generates nothing."""
    started = time.perf_counter()
    texts = [item.prompt for item in benchmark.items]
    losses = rolling_losses(contestant.lm, texts, contestant.context_tokens)
    latency = (time.perf_counter() - started) / max(1, len(texts))
    return [
        EvaluatedItem(
            benchmark=benchmark.name,
            arm=contestant.arm,
            model=contestant.model,
            call_top_k=0,
            item_id=item.item_id,
            prompt=item.prompt,
            completion="",
            answer="",
            gold=(),
            score=nats / num_tokens,
            weight=num_tokens,
            num_calls=0,
            num_malformed=0,
            calls=(),
            num_prompt_tokens=num_tokens,
            num_tokens=0,
            tool_seconds=0.0,
            latency_seconds=latency,
        )
        for item, (nats, num_tokens) in zip(benchmark.items, losses, strict=True)
        if num_tokens
    ]


def score_arms(
    items: Sequence[EvaluatedItem], metric: str, kind: Kind, seed: int
) -> list[ArmScore]:
    """One row per arm, in the order of the items, all of one benchmark."""
    by_arm: dict[str, list[EvaluatedItem]] = {}
    for item in items:
        by_arm.setdefault(item.arm, []).append(item)
    compared = None if kind == "call_rate" else by_arm.get("disabled")
    return [_score(members, compared, metric, kind, seed) for members in by_arm.values()]


def _score(
    items: Sequence[EvaluatedItem],
    disabled: Sequence[EvaluatedItem] | None,
    metric: str,
    kind: Kind,
    seed: int,
) -> ArmScore:
    statistic = _perplexity if kind == "perplexity" else weighted_mean
    scores, weights = [item.score for item in items], [float(item.weight) for item in items]
    low, high = bootstrap_interval([scores, weights], statistic, seed)
    num_calls = sum(item.num_calls for item in items)
    score = ArmScore(
        benchmark=items[0].benchmark,
        arm=items[0].arm,
        metric=metric,
        value=float(statistic(np.array(scores), np.array(weights))),
        low=low,
        high=high,
        n=len(items),
        call_rate=sum(item.num_calls > 0 for item in items) / len(items),
        malformed_rate=sum(item.num_malformed > 0 for item in items) / len(items),
        calls_per_item=num_calls / len(items),
        tool_seconds_per_call=sum(i.tool_seconds for i in items) / num_calls if num_calls else 0.0,
        tokens_per_item=sum(i.num_prompt_tokens + i.num_tokens for i in items) / len(items),
        difference=None,
        difference_low=None,
        difference_high=None,
        p_value=None,
    )
    if disabled is None or items[0].arm == "disabled":
        return score
    return _compared(score, items, disabled, kind, seed)


def _compared(
    score: ArmScore,
    items: Sequence[EvaluatedItem],
    disabled: Sequence[EvaluatedItem],
    kind: Kind,
    seed: int,
) -> ArmScore:
    """The score with its difference to arm disabled on the items that both have."""
    own = {item.item_id: item for item in items}
    pairs = [(own[other.item_id], other) for other in disabled if other.item_id in own]
    statistic = _perplexity if kind == "perplexity" else weighted_mean
    one, other = [a.score for a, _ in pairs], [b.score for _, b in pairs]
    columns = [one, other, [float(a.weight) for a, _ in pairs]]

    def difference(left: Array, right: Array, weights: Array, axis: int = -1) -> Array:
        found: Array = statistic(left, weights, axis) - statistic(right, weights, axis)
        return found

    low, high = bootstrap_interval(columns, difference, seed)
    return dataclasses.replace(
        score,
        difference=float(difference(np.array(one), np.array(other), np.array(columns[2]))),
        difference_low=low,
        difference_high=high,
        p_value=None if kind == "perplexity" else mcnemar(one, other),
    )


def _perplexity(scores: Array, weights: Array, axis: int = -1) -> Array:
    found: Array = np.exp(weighted_mean(scores, weights, axis))
    return found
