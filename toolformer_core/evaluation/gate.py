"""The gate: whether a newly tuned model takes the place of the champion, the one in use.

Both answer the same items with the same tools and settings. The new one passes if

    perplexity is not worse:  upper end of the 95% interval of PPL(new) / PPL(champion)
                              <= 1 + perplexity_tolerance
    a tool metric is better:  value(new) > value(champion), and McNemar's exact test of the two on
                              the same items gives p <= max_p_value

The paper compares models once and has no champion. Choice: not worse is shown, not merely not
disproved, hence the end of an interval; of fewer than MIN_TEXTS texts there is none, and the gate
stays shut. Choice: PPL is exp(nats of the texts / the champion's tokens) of both, as the two may
have other tokenizers: nats per text compare, nats per own token do not. Choice: McNemar's test, as
in the evaluation, because items are answered rightly or not. Left out: latency and call rate, which
no one number bounds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from toolformer_core.config.base import Settings
from toolformer_core.errors import DataError
from toolformer_core.evaluation.intervals import Array, bootstrap_interval, mcnemar, weighted_mean
from toolformer_core.records import EvaluatedItem

TOOL_ARM, TEXT_ARM = "on", "disabled"
"""Where the tool metric and the perplexity are taken from."""

MIN_TEXTS = 20
"""Choice: a bootstrap interval over fewer is too narrow, so nothing is shown by it."""


class GateConfig(Settings):
    """What a model must show before it takes the champion's place."""

    benchmark: str = Field(
        default="one_step",
        title="Questions",
        description="Questions of which more must be answered rightly, with tools: NAME, NAME=PATH "
        "or NAME=hf:NAME/CONFIG:SPLIT.",
    )
    max_p_value: float = Field(
        default=0.05,
        gt=0,
        le=1,
        title="Largest p",
        description="Of McNemar's test that both answer equally well.",
    )
    texts: str = Field(
        default="heldout=package://reasoning_gym/data/in_the_year_2889.txt",
        description="Texts whose perplexity must not be worse: wikitext=PATH or heldout=SOURCE.",
    )
    perplexity_tolerance: float = Field(
        default=0.02,
        ge=0,
        le=1,
        title="Tolerance",
        description="Share by which the perplexity may be higher.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GateDecision:
    """Whether the new model passed, why, and the figures behind it."""

    passed: bool
    reason: str
    figures: dict[str, float]


def decide(
    candidate: Sequence[EvaluatedItem],
    champion: Sequence[EvaluatedItem],
    config: GateConfig,
    seed: int,
) -> GateDecision:
    """The decision on the answered items of both; without items of a champion the first one passes.

    Raises: DataError if they did not answer the same items.
    """
    if not champion:
        return GateDecision(passed=True, reason="there is no champion yet", figures={})
    texts = _paired(candidate, champion, config.texts, TEXT_ARM)
    questions = _paired(candidate, champion, config.benchmark, TOOL_ARM)
    reading, read = _compare_perplexity(texts, config, seed)
    answering, answered = _compare_answers(questions, config)
    return GateDecision(
        passed=read["passed"] == answered["passed"] == 1.0,
        reason=f"{reading}; {answering}",
        figures={
            **{f"perplexity_{name}": value for name, value in read.items()},
            **{f"tool_{name}": value for name, value in answered.items()},
        },
    )


Pair = tuple[EvaluatedItem, EvaluatedItem]


def _paired(
    candidate: Sequence[EvaluatedItem], champion: Sequence[EvaluatedItem], spec: str, arm: str
) -> list[Pair]:
    """The items of a benchmark and arm, of the new model and of the champion."""
    name = spec.partition("=")[0]
    own, others = (
        {item.item_id: item for item in items if (item.benchmark, item.arm) == (name, arm)}
        for items in (candidate, champion)
    )
    if not own or own.keys() != others.keys():
        raise DataError(
            f"gate: {name} has {len(own)} items of the new model and {len(others)} of the "
            f"champion in arm {arm}, {len(own.keys() & others.keys())} of them the same; expected "
            "the same ones of both"
        )
    return [(item, others[item_id]) for item_id, item in own.items()]


def _compare_perplexity(
    pairs: Sequence[Pair], config: GateConfig, seed: int
) -> tuple[str, dict[str, float]]:
    """Whether the perplexity is not worse: a phrase and the figures.

    Both in nats per token of the champion; of too few texts the ratio is not bounded.
    """
    new = [item.score * item.weight / other.weight for item, other in pairs]
    old = [other.score for _, other in pairs]
    weights = [float(other.weight) for _, other in pairs]

    def ratio(left: Array, right: Array, tokens: Array, axis: int = -1) -> Array:
        found: Array = np.exp(weighted_mean(left - right, tokens, axis))
        return found

    low, high = bootstrap_interval([new, old, weights], ratio, seed)
    if len(pairs) < MIN_TEXTS:
        low, high = 0.0, math.inf
    left, right, tokens = (np.array(column) for column in (new, old, weights))
    passed = high <= 1 + config.perplexity_tolerance
    figures = {
        "passed": float(passed),
        "new": math.exp(float(weighted_mean(left, tokens))),
        "champion": math.exp(float(weighted_mean(right, tokens))),
        "ratio": float(ratio(left, right, tokens)),
        "ratio_low": low,
        "ratio_high": high,
    }
    bound = (
        f"only {len(pairs)} texts where {MIN_TEXTS} are needed"
        if high == math.inf
        else f"ratio at most {high:.4f} where {1 + config.perplexity_tolerance:g} is allowed"
    )
    return (
        f"perplexity {figures['new']:.4g} against {figures['champion']:.4g}, {bound}: "
        f"{'not worse' if passed else 'may be worse'}",
        figures,
    )


def _compare_answers(pairs: Sequence[Pair], config: GateConfig) -> tuple[str, dict[str, float]]:
    """Whether more questions are answered rightly: a phrase and the figures."""
    new, old = ([pair[side].score for pair in pairs] for side in (0, 1))
    figures = {"new": sum(new) / len(new), "champion": sum(old) / len(old)}
    figures["difference"] = figures["new"] - figures["champion"]
    figures["p_value"] = mcnemar(new, old)
    passed = figures["difference"] > 0 and figures["p_value"] <= config.max_p_value
    return (
        f"{pairs[0][0].benchmark} {figures['new']:.3f} against {figures['champion']:.3f}, "
        f"p {figures['p_value']:.3g}: {'better' if passed else 'not shown to be better'}",
        {"passed": float(passed), **figures},
    )
