"""The reliability of loss_reduction, per tool: a figure, and what it says in one line.

Only calls count whose loss_reduction was measured. Whether a call beats a wrong result is no
independent verdict: it and loss_reduction hold the same loss_with_result.
"""

from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from tasks.index import query
from tasks.report.figure_style import interval_line, new_axes, style
from toolformer_core.evaluation.reliability import Judged, equal_bins, rank_agreement

JUDGED_CALLS = (
    "SELECT tool, loss_reduction, is_right, CASE WHEN isfinite(loss_with_wrong_result) "
    "THEN loss_with_result < loss_with_wrong_result END AS beats_wrong "
    "FROM candidates JOIN tools USING (tool) WHERE isfinite(loss_reduction) "
    "ORDER BY tool_order, candidate_id"
)
"""The calls behind it; a verdict is null where neither the text nor a control tells."""
# NaN is the greatest number to DuckDB: every loss would beat it.


class _Verdict(NamedTuple):
    column: str
    of_calls: str
    good: str
    label: str
    is_independent: bool  # of the losses that make loss_reduction


_VERDICTS = (
    _Verdict("is_right", "that the text can judge", "are right", "right by the text", True),
    _Verdict(
        "beats_wrong", "scored with a wrong result too", "beat it", "beats a wrong result", False
    ),
)


def reliability_figures(index_path: Path) -> dict[str, Figure]:
    """Figures reliability_TOOL; a tool has one where some verdict has two bins or more."""
    with style():
        return {
            f"reliability_{tool}": _figure(tool, by_verdict)
            for tool, by_verdict in _judged(index_path).items()
            if any(len(equal_bins(judged)) > 1 for judged in by_verdict.values())
        }


def reliability_lines(index_path: Path) -> list[str]:
    """Per tool and verdict, how well loss_reduction ranks the calls."""
    return [
        _line(tool, verdict, judged)
        for tool, by_verdict in _judged(index_path).items()
        for verdict, judged in by_verdict.items()
    ]


def _judged(index_path: Path) -> dict[str, dict[_Verdict, Judged]]:
    """The judged calls of each tool and verdict; what has none is left out."""
    by_tool: dict[str, query.Rows] = {}
    for row in query.select(index_path, JUDGED_CALLS):
        by_tool.setdefault(row["tool"], []).append(row)
    found: dict[str, dict[_Verdict, Judged]] = {}
    for tool, rows in by_tool.items():
        for verdict in _VERDICTS:
            column = verdict.column
            judged = [(r["loss_reduction"], r[column]) for r in rows if r[column] is not None]
            if judged:
                found.setdefault(tool, {})[verdict] = judged
    return found


def _line(tool: str, verdict: _Verdict, judged: Judged) -> str:
    num_good = sum(is_good for _, is_good in judged)
    found = rank_agreement(judged)
    ranked = "there is nothing to tell apart"
    if found:
        caution = (
            f"0.5 is luck; Mann-Whitney p = {found.p_value:.2g}"
            if verdict.is_independent
            else "no test: both hold the same loss"
        )
        ranked = f"the area under the ROC curve is {found.area:.2f} ({caution})"
    return f"{tool}: of {len(judged)} calls {verdict.of_calls} {num_good} {verdict.good}; {ranked}."


def _figure(tool: str, by_verdict: dict[_Verdict, Judged]) -> Figure:
    """The share of good calls in bins of loss_reduction, with Wilson intervals."""
    figure, axes = new_axes(2.7, tool)
    for number, (verdict, judged) in enumerate(by_verdict.items()):
        bins = equal_bins(judged)
        interval_line(
            axes,
            [found.median for found in bins],
            [(found.share, found.low, found.high) for found in bins],
            number=number,
            label=f"{verdict.label} (n = {len(judged)})",
        )
    axes.set_xlabel("loss_reduction, nats (median of the bin)")
    axes.set_ylabel("share of calls")
    axes.set_ylim(-0.03, 1.03)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return figure
