"""The figures of a run: for the report and for MLflow."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import StrMethodFormatter

from tasks.index import query
from tasks.report.evaluation_figures import evaluation_figures
from tasks.report.figure_style import INK, LINES, MARKERS, PALE, SHADE, new_axes, style
from tasks.report.reliability import reliability_figures
from toolformer_core.provenance.explain import Explanation, explanation

_STEPS = ("calls", "parsed", "executed", "scored", "kept")
_NUM_BINS = 30
_GAP = 0.3  # between the losses of tokens and their sums
_LOG_SCALE_FROM = 100  # a tall bar of useless calls would hide the few kept ones

Row = Mapping[str, Any]  # Any: DuckDB values


def figures(index_path: Path) -> dict[str, Figure]:
    """Every figure of the report by name; one that would be empty is left out.

    Names: funnel_TOOL, loss_reduction_TOOL, threshold_sweep_kept, threshold_sweep_right,
    explain_TOOL_kept and explain_TOOL_dropped (the best kept call and the nearest miss),
    reliability_TOOL, arms_BENCHMARK and calibration.
    """
    funnel = query.funnel(index_path)
    sweep = query.select(index_path, "SELECT * FROM threshold_sweep")
    by_tool = {tool: [row for row in sweep if row["tool"] == tool] for tool in funnel}
    drawn: dict[str, Figure] = {}
    with style():
        for tool, counts in funnel.items():
            if counts["calls"]:
                drawn[f"funnel_{tool}"] = _funnel_figure(tool, counts)
            bins = _histogram(index_path, tool)
            if bins:
                in_force = [r["filtering_threshold"] for r in by_tool[tool] if r["is_in_force"]]
                drawn[f"loss_reduction_{tool}"] = _histogram_figure(tool, bins, in_force)
            for fate, explained in _explained(index_path, tool):
                drawn[f"explain_{tool}_{fate}"] = _explanation_figure(explained)
        scored = {tool: rows for tool, rows in by_tool.items() if funnel[tool]["scored"]}
        if scored:
            drawn["threshold_sweep_kept"] = _kept_figure(scored)
        if any(row["checkable"] for row in sweep):
            drawn["threshold_sweep_right"] = _right_figure(scored)
    return {**drawn, **reliability_figures(index_path), **evaluation_figures(index_path)}


def _funnel_figure(tool: str, counts: Row) -> Figure:
    """Bars from calls to kept; the right ones among the kept are hatched."""
    figure, axes = new_axes(1.9, tool)
    values = [counts[step] for step in _STEPS]
    bars = axes.barh(_STEPS, values, color=PALE, edgecolor=INK, linewidth=0.8)
    labels = [f"{value:,}" for value in values]
    if counts["checkable"]:
        labels[-1] += f" ({counts['right']} of {counts['checkable']} checkable right)"
        axes.barh(["kept"], [counts["right"]], color=SHADE, edgecolor=INK, hatch="////")
    axes.bar_label(bars, labels=labels, padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.6)
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)
    return figure


def _histogram(index_path: Path, tool: str) -> query.Rows:
    """Counts of loss_reduction in bins of equal width, one edge lying on the threshold.

    What lies beyond the central 99% is counted in the end bins.
    """
    return query.select(
        index_path,
        """
        WITH finite AS (
            SELECT loss_reduction AS x FROM candidates WHERE tool = ? AND isfinite(x)
        ),
        edge AS (
            SELECT coalesce(
                (SELECT max(filtering_threshold) FROM thresholds WHERE tool = ? AND is_in_force), 0
            ) AS tau
        ),
        span AS (
            SELECT
                tau,
                least(quantile_cont(x, 0.005), 0) AS low,
                greatest(quantile_cont(x, 0.995), tau + 0.5) AS high,
                (high - low) / ? AS width
            FROM finite, edge GROUP BY tau
        )
        SELECT tau + width * bin AS left_edge, any_value(width) AS width, count(*) AS n
        FROM (
            SELECT tau, width, floor((least(greatest(x, low), high) - tau) / width) AS bin
            FROM finite, span
        )
        GROUP BY ALL ORDER BY left_edge
        """,
        [tool, tool, _NUM_BINS],
    )


def _histogram_figure(tool: str, bins: Sequence[Row], in_force: Sequence[float]) -> Figure:
    """Distribution of loss_reduction; bars from the threshold on are hatched."""
    figure, axes = new_axes(2.4, tool)
    threshold = in_force[0] if in_force else float("inf")
    for label, is_kept in (("below", False), ("at or above", True)):
        side = [row for row in bins if (row["left_edge"] >= threshold - 1e-9) == is_kept]
        if not side:
            continue
        axes.bar(
            [row["left_edge"] for row in side],
            [row["n"] for row in side],
            width=[row["width"] for row in side],
            align="edge",
            color=SHADE if is_kept else PALE,
            edgecolor=INK,
            linewidth=0.6,
            hatch="////" if is_kept else None,
            label=f"{label}: {sum(row['n'] for row in side):,}",
        )
    for value in in_force:
        axes.axvline(value, color=INK, linestyle="--", linewidth=1.2, label=f"tau_f = {value:g}")
    if max(row["n"] for row in bins) > _LOG_SCALE_FROM:
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.7)
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_xlabel("loss_reduction, nats")
    axes.set_ylabel("calls")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def _explained(index_path: Path, tool: str) -> Iterator[tuple[str, Explanation]]:
    """The kept call with the largest loss_reduction and the dropped one that came nearest."""
    settings = {
        row["key"]: row["value"]
        for row in query.select(index_path, "SELECT * FROM settings WHERE key LIKE 'score.%'")
    }
    width, weights = settings["score.num_scored_tokens"], settings["score.token_weights"]
    for fate in ("kept", "dropped"):
        rows = query.select(
            index_path,
            "SELECT * FROM candidates WHERE tool = ? AND kept = ? AND isfinite(loss_reduction) "
            "AND filtering_threshold IS NOT NULL "
            "ORDER BY loss_reduction DESC, candidate_id LIMIT 1",
            [tool, fate == "kept"],
        )
        yield from ((fate, explanation(row, int(width), weights)) for row in rows)


def _explanation_figure(explained: Explanation) -> Figure:
    """Losses of each scored token without a call, with an empty result, with the result."""
    call = f"[{explained.tool}({explained.argument}) -> {explained.result}]"
    shown = textwrap.shorten(ascii(call)[1:-1], 60, placeholder="...")
    sign = ">=" if explained.loss_reduction >= explained.filtering_threshold else "<"
    verdict = "kept" if explained.kept else f"dropped: {explained.reason}"
    figure, axes = new_axes(2.0, "")
    axes.set_title(
        f"{shown}\nloss_reduction {explained.loss_reduction:.2f} {sign} tau_f "
        f"{explained.filtering_threshold:g}, {verdict}",
        x=-0.28,  # over the labels too: the lines are long
        fontsize=8,
    )
    tokens = explained.tokens
    _draw_losses(
        axes,
        [
            [*(t.nll_without_call for t in tokens), explained.loss_without_call],
            [*(t.nll_with_empty_result for t in tokens), explained.loss_with_empty_result],
            [*(t.nll_with_result for t in tokens), explained.loss_with_result],
        ],
    )
    labels = [f"{_token_label(token.text)}\n{token.weight:.2f}" for token in tokens]
    ticks = [*(x + 0.5 for x in range(len(tokens))), len(tokens) + _GAP + 0.5]
    axes.set_xlim(0, len(tokens) + _GAP + 1)
    axes.set_ylim(3, 0)
    axes.set_xticks(ticks, [*labels, "weighted\nnats"], fontsize=8)
    axes.set_yticks([0.5, 1.5, 2.5], ["no call", "empty result", "with result"])
    axes.tick_params(length=0)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    return figure


def _draw_losses(axes: Axes, rows: Sequence[Sequence[float | None]]) -> None:
    """One cell per loss, darker where it is larger; the last column stands apart."""
    highest = max(value or 0.0 for row in rows for value in row) or 1.0
    for y, row in enumerate(rows):
        for x, value in enumerate(row):
            left = x + (_GAP if x == len(row) - 1 else 0.0)
            shade = 1 - 0.75 * (value or 0.0) / highest
            axes.add_patch(Rectangle((left, y), 1, 1, facecolor=str(shade), edgecolor=INK))
            axes.text(
                left + 0.5,
                y + 0.5,
                "-" if value is None else f"{value:.2f}",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if shade < 0.5 else INK,
            )


def _token_label(text: str) -> str:
    label = ascii(text)
    return label if len(label) <= 10 else f"{label[:8]}.."


def _kept_figure(sweep: Mapping[str, Sequence[Row]]) -> Figure:
    figure, axes = new_axes(2.7, "Calls kept at each threshold")
    curves = {
        tool: [(row["filtering_threshold"], row["kept"], row["is_in_force"]) for row in rows]
        for tool, rows in sweep.items()
    }
    _draw_curves(axes, curves)
    axes.set_ylabel("calls kept")
    axes.set_ylim(bottom=0)
    return figure


def _right_figure(sweep: Mapping[str, Sequence[Row]]) -> Figure:
    figure, axes = new_axes(2.7, "Share right among checkable kept calls")
    curves = {
        tool: [
            (row["filtering_threshold"], row["right_calls"] / row["checkable"], row["is_in_force"])
            for row in rows
            if row["checkable"]
        ]
        for tool, rows in sweep.items()
    }
    _draw_curves(axes, {tool: points for tool, points in curves.items() if points})
    axes.set_ylabel("share right")
    axes.set_ylim(0, 1.05)
    return figure


def _draw_curves(axes: Axes, curves: Mapping[str, Sequence[tuple[float, float, bool]]]) -> None:
    """One line per tool over tau_f; a ring marks the threshold in force."""
    for number, (tool, points) in enumerate(curves.items()):
        xs, ys = [point[0] for point in points], [point[1] for point in points]
        axes.plot(
            xs,
            ys,
            linestyle=LINES[number % len(LINES)],
            marker=MARKERS[number % len(MARKERS)],
            color=INK,
            markerfacecolor="white" if number % 2 else INK,
            markersize=5,
            linewidth=1.2,
            label=tool,
        )
        ringed = [(x, y) for x, y, is_in_force in points if is_in_force]
        axes.plot(
            [x for x, _ in ringed],
            [y for _, y in ringed],
            linestyle="none",
            marker="o",
            markersize=12,
            markerfacecolor="none",
            markeredgecolor=INK,
        )
    axes.set_xlabel("tau_f, nats (ring: in force)")
    axes.set_xlim(left=0)
    axes.legend(frameon=False, fontsize=8)
