"""Settings for a model, a corpus and a tool, from a sample of the documents.

Half of the sample is annotated generously: every loss is measured, and for each call also
L_i(e(c, r')) with the result r' of another call. From these the settings follow without another
forward pass:

    tau_f   the lowest threshold of interest at which enough of the kept calls are good, judged
            - by the text, where it tells whether a result is right (Tool.is_right), else
            - by the wrong results: of the kept calls, as many are taken to be there for their
              looks alone as calls with a wrong result would be kept at the same threshold
    k, m    the fewest positions and samples that keep `RETAINED` of what all of them keep
    tau_s   below the least likely position of a kept call

The other half is annotated with these settings. It decides nothing, so that what it yields, beside
what was predicted, is the error of the prediction.

Choice: the paper sets its thresholds by hand, for one model (Appendix A).
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum

from toolformer_core.calibration.trials import EVERYTHING, Annotator, Trial, Tried
from toolformer_core.config.pipeline import PipelineConfig
from toolformer_core.records import Document

RETAINED = 0.95
MIN_JUDGED = 5
"""Judged calls that a threshold must keep to be trusted."""


class Basis(StrEnum):
    """What the calls kept at a threshold are judged by."""

    RIGHT_RESULTS = "right_results"
    WRONG_RESULTS = "wrong_results"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSettings:
    """The settings of one tool."""

    sampling_threshold: float  # tau_s
    max_positions: int  # k
    samples_per_position: int  # m
    filtering_threshold: float  # tau_f, nats


@dataclass(frozen=True, slots=True, kw_only=True)
class Yield:
    """What a document gives and costs on average; `share_good` is of the judged kept calls."""

    kept: float
    judged: float
    share_good: float | None
    seconds: float
    num_bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCalibration:
    """Recommended settings of one tool, and how far they were borne out."""

    tool: str
    settings: ToolSettings
    basis: Basis
    reaches_target: bool
    num_documents: int  # of each half
    predicted: Yield
    held_out: Yield


@dataclass(frozen=True, slots=True, kw_only=True)
class NotCalibrated:
    """A tool of which too few calls that reach the lowest threshold could be judged."""

    tool: str
    num_documents: int
    lowest_threshold: float
    num_calls: int
    num_with_result: int


def choose_threshold(
    trials: Sequence[Trial], basis: Basis, target: float, lowest_threshold: float
) -> tuple[float, bool] | None:
    """The lowest tau_f in nats at which the share of good calls reaches the target, and whether.

    Where none does, the one with the largest share; None if too few calls can be judged at all.
    Of a share seen on a sample the lower end of its interval counts (Wilson, one standard error),
    so that the threshold holds on other texts too.
    """
    reductions = (t.loss_reduction for t in trials if t.loss_reduction is not None)
    found = {math.floor(x * 100) / 100 for x in reductions if math.isfinite(x)}
    candidates = sorted({lowest_threshold, *(x for x in found if x > lowest_threshold)})
    best: tuple[float, float] | None = None
    for threshold in candidates:
        num_judged, num_good = _judged(trials, basis, threshold)
        if num_judged < MIN_JUDGED:
            break  # and fewer at every higher one
        share = lower_end(num_good, num_judged)
        if share >= target:
            return threshold, True
        best = max(best or (share, threshold), (share, threshold))
    return (best[1], False) if best else None


def lower_end(num_good: int, num_judged: int) -> float:
    """Lower end of Wilson's score interval of a share, one standard error wide to each side."""
    share = num_good / num_judged
    spread = math.sqrt(share * (1 - share) / num_judged + 1 / (4 * num_judged**2))
    return (share + 1 / (2 * num_judged) - spread) / (1 + 1 / num_judged)


def _judged(trials: Sequence[Trial], basis: Basis, threshold: float) -> tuple[int, int]:
    """How many of the calls kept at the threshold can be judged, and how many are good."""
    kept = [t for t in trials if is_kept(t, threshold)]
    if basis is Basis.RIGHT_RESULTS:
        verdicts = [t.is_right for t in kept if t.is_right is not None]
        return len(verdicts), sum(verdicts)
    num_judged = sum(t.wrong_result_reduction is not None for t in kept)
    by_chance = sum((t.wrong_result_reduction or -math.inf) >= threshold for t in trials)
    return num_judged, max(0, num_judged - by_chance)


def is_kept(trial: Trial, threshold: float) -> bool:
    """Whether a run with this threshold would keep the call."""
    reduction = trial.loss_reduction
    if reduction is None or not math.isfinite(reduction):
        return False
    return reduction >= threshold and trial.passes_controls


def _basis(trials: Sequence[Trial], lowest_threshold: float) -> Basis:
    """By the text where it tells, of enough calls that could be kept, whether they are right."""
    num_judged, _ = _judged(trials, Basis.RIGHT_RESULTS, lowest_threshold)
    return Basis.RIGHT_RESULTS if num_judged >= MIN_JUDGED else Basis.WRONG_RESULTS


def choose_sampling(
    trials: Sequence[Trial], filtering_threshold: float, tried_above: float = 0.0
) -> ToolSettings:
    """The fewest samples that keep `RETAINED` of the calls that all samples keep.

    `tried_above` is the sampling threshold of the trials: below it nothing is known.
    """
    kept = [t for t in trials if is_kept(t, filtering_threshold)]
    counts = itertools.product(
        range(1, 2 + max(t.position_rank for t in trials)),
        range(1, 2 + max(t.sample_index for t in trials)),
    )
    enough = [
        (k, m)
        for k, m in counts
        if sum(t.position_rank < k and t.sample_index < m for t in kept) >= RETAINED * len(kept)
    ]
    k, m = min(enough, key=lambda pair: (pair[0] * pair[1], pair))
    left = [t for t in kept if t.position_rank < k and t.sample_index < m]
    return ToolSettings(
        sampling_threshold=max(tried_above, _below(min(t.start_probability for t in left))),
        max_positions=k,
        samples_per_position=m,
        filtering_threshold=filtering_threshold,
    )


def _below(probability: float) -> float:
    """A number of one digit below the probability, at most by half."""
    digits = f"{probability / 2:.0e}"
    return float(digits) if float(digits) < probability else 0.0


def predict(
    tried: Tried, settings: ToolSettings, basis: Basis, prune_below: float, num_controls: int = 0
) -> Yield:
    """What a document would give and cost with the settings, from `tried`, where all was measured.

    Reading costs the same; sampling goes with the number of samples, scoring with that of losses.
    """
    sampled = [
        t
        for t in tried.trials
        if t.position_rank < settings.max_positions
        and t.sample_index < settings.samples_per_position
        and t.start_probability > settings.sampling_threshold
        and not t.loss_without_call < prune_below
    ]
    num_judged, num_good = _judged(sampled, basis, settings.filtering_threshold)
    share_sampled = len(sampled) / max(1, len(tried.trials))
    num_losses = sum(_num_losses(t, EVERYTHING, num_controls=1) for t in tried.trials)
    share_scored = sum(_num_losses(t, prune_below, num_controls) for t in sampled) / max(
        1, num_losses
    )
    seconds = (
        tried.seconds_reading
        + tried.seconds_sampling * share_sampled
        + tried.seconds_scoring * share_scored
    )
    kept = sum(is_kept(t, settings.filtering_threshold) for t in sampled)
    return Yield(
        kept=kept / tried.num_documents,
        judged=num_judged / tried.num_documents,
        share_good=num_good / num_judged if num_judged else None,
        seconds=seconds / tried.num_documents,
        num_bytes=tried.num_bytes * share_sampled / tried.num_documents,
    )


def _num_losses(trial: Trial, prune_below: float, num_controls: int) -> int:
    """How many prefixes are tried for a call: its result, no result, and those of controls."""
    if trial.loss_with_result is None or trial.loss_reduction is None:
        return 0
    is_open = not trial.loss_without_call - trial.loss_with_result < prune_below
    is_ahead = not trial.loss_reduction < prune_below
    return 1 + is_open + is_ahead * num_controls


def calibrate_tool(
    documents: Sequence[Document], annotator: Annotator, *, target: float, lowest_threshold: float
) -> ToolCalibration | NotCalibrated:
    """Settings from the first half of the documents, checked on the second.

    `target` is the wanted share of good calls; no threshold below `lowest_threshold` (nats) is
    considered.
    """
    half = len(documents) // 2
    fit, check = documents[:half], documents[half : 2 * half]
    generous = replace(
        annotator,
        sample=annotator.sample.model_copy(update={"prune_below": None}),
        measures_everything=True,
    )
    tried = generous.run(fit)
    basis = _basis(tried.trials, lowest_threshold)
    chosen = choose_threshold(tried.trials, basis, target, lowest_threshold)
    if chosen is None:
        return NotCalibrated(
            tool=annotator.tool.name,
            num_documents=half,
            lowest_threshold=lowest_threshold,
            num_calls=len(tried.trials),
            num_with_result=sum(t.loss_with_result is not None for t in tried.trials),
        )
    threshold, reaches_target = chosen
    tried_above = annotator.sample.sampling_threshold
    settings = choose_sampling(tried.trials, threshold, tried_above)
    num_controls = len(annotator.score.controls)
    sparing = _with_settings(annotator, settings, lowest_threshold)
    return ToolCalibration(
        tool=annotator.tool.name,
        settings=settings,
        basis=basis,
        reaches_target=reaches_target,
        num_documents=half,
        predicted=predict(tried, settings, basis, lowest_threshold, num_controls),
        held_out=_run(sparing, check, settings, basis),
    )


def _run(
    annotator: Annotator, documents: Sequence[Document], settings: ToolSettings, basis: Basis
) -> Yield:
    """What a run with these settings gives and costs."""
    tried = annotator.run(documents)
    judged = tried
    if basis is Basis.WRONG_RESULTS:  # which a run measures of few calls, if at all
        judged = replace(annotator, measures_everything=True).run(documents)
    seconds = tried.seconds_reading + tried.seconds_sampling + tried.seconds_scoring
    return replace(
        predict(judged, settings, basis, EVERYTHING),
        seconds=seconds / len(documents),
        num_bytes=tried.num_bytes / len(documents),
    )


def _with_settings(annotator: Annotator, settings: ToolSettings, prune_below: float) -> Annotator:
    """The annotator with the recommended settings."""
    changed = asdict(settings) | {"prune_below": prune_below}
    del changed["filtering_threshold"]  # which decides nothing that costs
    return replace(annotator, sample=annotator.sample.model_copy(update=changed))


def calibrated(config: PipelineConfig, found: Sequence[ToolCalibration]) -> PipelineConfig:
    """The configuration with the recommended settings of these tools."""
    content = config.model_dump(mode="json")
    for tool in found:
        for name, value in asdict(tool.settings).items():
            stage = content["filter" if name == "filtering_threshold" else "sample"]
            before = stage[name]
            by_tool = before if isinstance(before, dict) else {"default": before}
            stage[name] = {**by_tool, tool.tool: value}
    return PipelineConfig.model_validate(content)
