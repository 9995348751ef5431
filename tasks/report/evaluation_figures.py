"""The figures of an evaluation: every arm with its interval, and what arm disabled knows."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from tasks.index import query
from tasks.report.figure_style import INK, MARKERS, PALE, SHADE, new_axes, style, whiskers
from toolformer_core.benchmarks.base import Kind
from toolformer_core.evaluation.intervals import Array, bootstrap_interval, weighted_mean
from toolformer_core.evaluation.reliability import share_interval

_HAS_DISABLED = "coalesce(disabled_called, disabled_not_called) IS NOT NULL"
_BAR = 0.36  # of the distance between two benchmarks

Row = Mapping[str, Any]  # Any: DuckDB values

_SIDES = (
    ("called", "items with a call", SHADE, "////"),
    ("not_called", "items without", PALE, None),
)


class _Arm(NamedTuple):
    name: str
    has_calls: bool
    value: float
    low: float
    high: float


_MEASURES: dict[Kind, str] = {
    "answer": "share of items answered rightly",
    "perplexity": "perplexity (lower is better)",
    "call_rate": "share of texts with a call",
}


def evaluation_figures(index_path: Path) -> dict[str, Figure]:
    """Figures arms_BENCHMARK, and calibration where arms on and disabled were run."""
    with style():
        drawn = {
            f"arms_{benchmark}": _arms_figure(benchmark, kind, arms)
            for (benchmark, kind), arms in _arms(index_path).items()
        }
        splits = query.select(index_path, f"SELECT * FROM call_split WHERE {_HAS_DISABLED}")
        if splits:
            drawn["calibration"] = _calibration_figure(splits)
    return drawn


def _arms(index_path: Path) -> dict[tuple[str, Kind], list[_Arm]]:
    """Values and intervals of every benchmark, the same as in the evaluation table.

    The items come in the order in which they were evaluated: another would give other resamples.
    """
    [setting] = query.select(index_path, "SELECT * FROM settings WHERE key = 'evaluate.seed'")
    rows = query.select(
        index_path,
        "WITH columns AS (SELECT benchmark, arm, list(score ORDER BY items.rowid) AS scores, "
        "list(weight::DOUBLE ORDER BY items.rowid) AS weights "
        "FROM evaluated_items AS items GROUP BY benchmark, arm) "
        "SELECT * FROM evaluation JOIN columns USING (benchmark, arm) "
        "ORDER BY benchmark, arm_order(arm)",
    )
    found: dict[tuple[str, Kind], list[_Arm]] = {}
    for row in rows:
        statistic = _perplexity if row["kind"] == "perplexity" else weighted_mean
        columns = [row["scores"], row["weights"]]
        interval = bootstrap_interval(columns, statistic, int(setting["value"]))
        arm = _Arm(row["arm"], row["call_top_k"] > 0, row["value"], *interval)
        found.setdefault((row["benchmark"], row["kind"]), []).append(arm)
    return found


def _perplexity(scores: Array, weights: Array, axis: int = -1) -> Array:
    found: Array = np.exp(weighted_mean(scores, weights, axis))
    return found


def _arms_figure(benchmark: str, kind: Kind, arms: Sequence[_Arm]) -> Figure:
    """A dot and its interval per arm, filled where it has tools; dotted: the value of disabled."""
    figure, axes = new_axes(0.95 + 0.3 * len(arms), benchmark)
    for row, arm in enumerate(arms):
        axes.errorbar(
            [arm.value],
            [row],
            xerr=whiskers([(arm.value, arm.low, arm.high)]),
            marker=MARKERS[row % len(MARKERS)],
            color=INK,
            markerfacecolor=INK if arm.has_calls else "white",
            markersize=6,
            elinewidth=1.2,
            capsize=3,
            clip_on=False,  # a value of 0 lies on the edge
        )
        axes.annotate(
            f"{arm.value:.3f}", (1.02, row), xycoords=("axes fraction", "data"), va="center"
        )
        if arm.name == "disabled":
            axes.axvline(arm.value, color=INK, linestyle=":", linewidth=1, zorder=0)
    axes.set_yticks(range(len(arms)), [arm.name for arm in arms])
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.set_xlabel(_MEASURES[kind])
    if kind != "perplexity":
        axes.set_xlim(left=0)
    return figure


def _calibration_figure(splits: Sequence[Row]) -> Figure:
    """Accuracy of arm disabled on the items where arm on calls, and on the others."""
    figure, axes = new_axes(1.2 + 0.55 * len(splits), "What arm disabled knows")
    for number, (which, label, shade, hatch) in enumerate(_SIDES):
        shown = [(y, row) for y, row in enumerate(splits) if row[f"n_{which}"]]
        if not shown:
            continue
        points = [_share(row, which) for _, row in shown]
        ys = [y + (number - 0.5) * _BAR for y, _ in shown]
        axes.barh(
            ys,
            [value for value, _, _ in points],
            height=_BAR,
            xerr=whiskers(points),
            color=shade,
            edgecolor=INK,
            linewidth=0.8,
            hatch=hatch,
            error_kw={"elinewidth": 1, "capsize": 2.5, "ecolor": INK},
            label=label,
        )
        for y, (_, row), (_, _, high) in zip(ys, shown, points, strict=True):
            axes.annotate(
                f"n = {row[f'n_{which}']:,}",
                (high, y),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
    axes.set_yticks(range(len(splits)), [row["benchmark"] for row in splits])
    axes.set_ylim(len(splits) - 0.4, -0.6)
    axes.set_xlim(0, 1.2)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.set_xlabel("share answered rightly without tools")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return figure


def _share(row: Row, which: str) -> tuple[float, float, float]:
    """The share that arm disabled gets right, and its interval."""
    value, n = row[f"disabled_{which}"], row[f"n_{which}"]
    return (value, *share_interval(round(value * n), n))
