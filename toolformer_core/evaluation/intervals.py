"""How sure a figure is: bootstrap over items, and McNemar's test of two arms on the same items.

The paper reports single figures. Items are resampled, the same ones for both sides of a difference.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

_NUM_RESAMPLES = 1000
_BATCH = 100  # resamples in memory at a time

Array = npt.NDArray[np.float64]
Statistic = Callable[..., Array]
"""Columns of items [..., N] and axis=-1 to a figure [...]."""


def bootstrap_interval(
    columns: Sequence[Sequence[float]], statistic: Statistic, seed: int
) -> tuple[float, float]:
    """2.5% and 97.5% quantiles of the statistic over resampled items.

    Shapes: columns of N numbers each, of which item i is the i-th of every one.
    """
    arrays = tuple(np.asarray(column, dtype=np.float64) for column in columns)
    if len(arrays[0]) < 2:  # nothing to resample
        value = float(statistic(*arrays, axis=-1))
        return value, value
    found = stats.bootstrap(
        arrays,
        statistic,
        n_resamples=_NUM_RESAMPLES,
        batch=_BATCH,
        vectorized=True,
        paired=True,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def weighted_mean(scores: Array, weights: Array, axis: int = -1) -> Array:
    """Sum of weights times scores over the sum of the weights."""
    mean: Array = (scores * weights).sum(axis) / weights.sum(axis)
    return mean


def mcnemar(one: Sequence[float], other: Sequence[float]) -> float:
    """Exact two-sided p-value that both arms are right equally often, from 1s and 0s.

    Only items count that one arm gets right and the other does not.
    """
    gained = sum(a > b for a, b in zip(one, other, strict=True))
    lost = sum(a < b for a, b in zip(one, other, strict=True))
    if gained + lost == 0:
        return 1.0
    return float(stats.binomtest(gained, gained + lost).pvalue)
