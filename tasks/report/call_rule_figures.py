"""The figure of the call rule: what each rule starts in held-out texts, the chosen one ringed."""

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tasks.report.figure_style import INK, interval_line, new_axes, style
from toolformer_core.call_rule import CallChoice, RuleCount
from toolformer_core.evaluation.reliability import share_interval

Point = tuple[float, float, float]  # a share and its 95% interval
_SIGNS = {"call_top_k": "k =", "call_threshold": "p >="}
_GAP = 0.5  # between the ranks and the thresholds
_SHIFT = 0.08


def call_rule_figures(choice: CallChoice | None) -> dict[str, Figure]:
    """Figure call_rule; none where nothing was chosen, or there was no call to look at."""
    if choice is None or not choice.counts:
        return {}
    with style():
        return {"call_rule": _figure(choice)}


def _figure(choice: CallChoice) -> Figure:
    """Precision and recall with Wilson's intervals by rule: ranks, then thresholds."""
    figure, axes = new_axes(3.0, "Calls started in held-out texts of C*")
    ranks = [c for c in choice.counts if c.rule.setting == "call_top_k"]
    places = [k + _GAP * (k >= len(ranks)) for k in range(len(choice.counts))]
    _draw(axes, choice, places, _precision, 0)
    _draw(axes, choice, places, _recall, 1)
    labels = [f"{c.rule.value:g}" for c in choice.counts]
    for first in (0, len(ranks)):
        labels[first] = f"{_SIGNS[choice.counts[first].rule.setting]} {labels[first]}"
    axes.set_xticks(places, labels, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_xlabel("a call starts at (ring: chosen)")
    axes.set_ylabel("share, 95% interval")
    axes.set_ylim(-0.03, 1.05)
    handles, names = axes.get_legend_handles_labels()
    legend = dict(zip(names, handles, strict=True))  # each line is drawn in two parts
    figure.legend(
        legend.values(), legend, loc="outside lower center", ncols=2, frameon=False, fontsize=8
    )
    return figure


def _draw(
    axes: Axes,
    choice: CallChoice,
    places: Sequence[float],
    share: Callable[[RuleCount], Point | None],
    number: int,
) -> None:
    """One of the two lines, in two parts, and its rings."""
    beside = _SHIFT if number else -_SHIFT  # intervals must not cover one another
    points = [
        (x + beside, count, share(count)) for x, count in zip(places, choice.counts, strict=True)
    ]
    known = [(x, count.rule, point) for x, count, point in points if point is not None]
    for setting in _SIGNS:
        part = [(x, point) for x, rule, point in known if rule.setting == setting]
        if part:
            name = share.__name__.removeprefix("_")
            interval_line(
                axes, [x for x, _ in part], [point for _, point in part], number=number, label=name
            )
    ringed = [(x, point[0]) for x, rule, point in known if rule == choice.rule]
    axes.plot(
        [x for x, _ in ringed],
        [y for _, y in ringed],
        linestyle="none",
        marker="o",
        markersize=12,
        markerfacecolor="none",
        markeredgecolor=INK,
    )


def _precision(count: RuleCount) -> Point | None:
    if count.precision is None:
        return None
    return count.precision, *share_interval(count.num_exact, count.num_starts)


def _recall(count: RuleCount) -> Point:
    return count.recall, count.recall_low, count.recall_high
