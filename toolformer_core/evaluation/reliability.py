"""Whether a larger loss_reduction means a more useful call.

The paper keeps a call for its loss_reduction and shows ten hand-picked ones (Table 10) of which
most with a large one are useful. Here all calls count whose loss_reduction was measured (calls that
could not reach the lowest threshold have none), and of which the text itself tells whether the
result is right, or whose result competes with that of another call.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

_MIN_CALLS = 10  # in a bin: below, an interval spans nearly everything
_MAX_BINS = 8

Judged = Sequence[tuple[float, bool]]
"""The loss_reduction (nats) of some calls, and whether each is good; none is NaN."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Calls with similar loss_reduction, and the share of good ones with its 95% interval."""

    lowest: float  # nats
    median: float
    highest: float
    n: int
    num_good: int
    share: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RankAgreement:
    """How often a good call has a larger loss_reduction than a bad one (0.5: no more than by luck).

    It is the area under the ROC curve; `p_value` is that of the Mann-Whitney test, and means
    something only where the verdict itself takes no part in loss_reduction.
    """

    area: float
    p_value: float
    num_good: int
    num_bad: int


def equal_bins(judged: Judged) -> list[Bin]:
    """Bins of nearly equal counts, the smallest loss_reduction first.

    Choice: ten calls or more in each, at most eight bins; fewer than ten calls make one bin.
    """
    if not judged:
        return []
    # By margin alone: among equal margins the good calls must not come last.
    ordered = sorted(judged, key=lambda call: call[0])
    num_bins = min(_MAX_BINS, max(1, len(ordered) // _MIN_CALLS))
    edges = [len(ordered) * k // num_bins for k in range(num_bins + 1)]
    return [_bin(ordered[start:end]) for start, end in itertools.pairwise(edges)]


def _bin(ordered: Judged) -> Bin:
    margins = [margin for margin, _ in ordered]
    num_good = sum(is_good for _, is_good in ordered)
    low, high = share_interval(num_good, len(ordered))
    half = len(margins) // 2
    return Bin(
        lowest=margins[0],
        median=(margins[half] + margins[-half - 1]) / 2,
        highest=margins[-1],
        n=len(margins),
        num_good=num_good,
        share=num_good / len(margins),
        low=low,
        high=high,
    )


def share_interval(num_good: int, n: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share."""
    interval = stats.binomtest(num_good, n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def rank_agreement(judged: Judged) -> RankAgreement | None:
    """How well loss_reduction tells good calls from bad ones; None unless there are both."""
    good = [margin for margin, is_good in judged if is_good]
    bad = [margin for margin, is_good in judged if not is_good]
    if not good or not bad:
        return None
    found = stats.mannwhitneyu(good, bad, alternative="two-sided")
    return RankAgreement(
        area=float(found.statistic) / (len(good) * len(bad)),
        p_value=float(found.pvalue),
        num_good=len(good),
        num_bad=len(bad),
    )
