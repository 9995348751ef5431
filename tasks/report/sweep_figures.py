"""The figures of a sweep: what a threshold, k or a model does to the yield and to the answers.

Where more varies than one figure can show, there is one for each of the other values. Not for
seeds: of several, a point is their mean, and its interval reaches from the lowest to the highest.
"""

import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from tasks.index import query
from tasks.report.figure_style import interval_line, new_axes, style
from toolformer_core.config.variations import (
    CALL_TOP_K,
    FILTERING_THRESHOLD,
    MODEL,
    SEED,
    Variation,
    needs_training,
)
from toolformer_core.evaluation.reliability import share_interval

Row = Mapping[str, Any]  # Any: DuckDB values
Interval = tuple[float, float, float]  # value, low, high
Lines = dict[str, dict[Any, list[Interval]]]  # Any: values on the x axis, each with its points

_SCORES = "SELECT * FROM scores JOIN cells USING (cell) ORDER BY cell"
_SPLITS = (
    "SELECT * FROM call_split JOIN cells USING (cell) "
    "ORDER BY benchmark, call_threshold NULLS FIRST, call_top_k, cell"
)
_RULE = "a call starts at"
_RULE_SETTINGS = ("evaluate.decode.call_top_k", "evaluate.decode.call_threshold")
_DODGE = 0.07  # in steps of the axis: intervals of two lines shall not cover one another
_ARM_NAMES = {"base": "M", "disabled": "M*, calls disabled", "on": "M*"}


def sweep_figures(index_path: Path, variations: Sequence[Variation]) -> dict[str, Figure]:
    """Every figure by name; one that would be empty is left out.

    Names: kept_by_NAME, right_by_NAME and BENCHMARK_by_NAME, where NAME varies; and
    calibration_BENCHMARK and scaling_BENCHMARK; then the values that it is for.
    """
    drawers = (_count_figures, _score_figures, _calibration_figures, _scaling_figures)
    with style():
        return {name: figure for draw in drawers for name, figure in draw(index_path, variations)}


def shown(value: Any) -> str:
    """A value of a cell as text."""
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def calls_start(split: Row) -> str:
    """The rule by which calls started in a row of call_split: by rank, or by probability."""
    threshold = split["call_threshold"]
    return f"k = {split['call_top_k']}" if threshold is None else f"p = {threshold:g}"


def measured_arm(rows: Iterable[Row]) -> str:
    """The arm that a sweep is about: with tools, if that was run."""
    arms = {row["arm"] for row in rows}
    return next((arm for arm in ("on", "disabled") if arm in arms), min(arms))


def by_benchmark(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows of each benchmark."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["benchmark"], []).append(row)
    return found


def _x_axes(variations: Sequence[Variation]) -> list[str]:
    """What has more than one value; not seeds, and models have a figure of their own."""
    return [v.name for v in variations if len(v.values) > 1 and v.name not in (SEED, MODEL)]


def _others(variations: Sequence[Variation], *besides: str) -> list[str]:
    """What tells cells apart, beside some names."""
    return [v.name for v in variations if len(v.values) > 1 and v.name not in (SEED, *besides)]


def _panels(rows: Iterable[Row], names: Sequence[str]) -> Iterator[tuple[str, str, list[Row]]]:
    """The rows by the values of some names: ends for a figure's name and for its title."""
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(shown(row[name]) for name in names), []).append(row)
    for values, own in found.items():
        title = "".join(f", {n} {v}" for n, v in zip(names, values, strict=True))
        yield "".join(f"_{re.sub(r'[^0-9A-Za-z.-]+', '-', value)}" for value in values), title, own


def _count_figures(
    index_path: Path, variations: Sequence[Variation]
) -> Iterator[tuple[str, Figure]]:
    """Calls kept and the share of right ones; what comes after the filter does not matter."""
    counted = [variation for variation in variations if not needs_training([variation])]
    rows = query.select(index_path, "SELECT * FROM cell_counts JOIN cells USING (cell)")
    for x in _x_axes(counted):
        for end, title, own in _panels(rows, _others(counted, x)):
            kept = _lines(own, x, ["tool"], lambda row: (row["kept"],) * 3)
            yield f"kept_by_{x}{end}", _figure(f"Calls kept{title}", x, "calls kept", kept)
            right = _lines(
                own, x, ["tool"], lambda row: _share(row["right_calls"], row["checkable"])
            )
            if right:
                label = "share right of checkable calls"
                yield f"right_by_{x}{end}", _figure(f"Share right{title}", x, label, right)


def _share(num_good: float, n: int) -> Interval | None:
    """A share with Wilson's interval."""
    good = round(num_good)
    return (good / n, *share_interval(good, n)) if n else None


def _score_figures(
    index_path: Path, variations: Sequence[Variation]
) -> Iterator[tuple[str, Figure]]:
    """The arm that the sweep is about along each axis, beside the model before it and without."""
    for benchmark, rows in by_benchmark(query.select(index_path, _SCORES)).items():
        arm, label = measured_arm(rows), _short(rows[0]["metric"])
        varied = [v for v in variations if arm == "on" or v.name != CALL_TOP_K]
        for x in _x_axes(varied):
            others = _others(varied, x)
            lined = [name for name in (CALL_TOP_K, FILTERING_THRESHOLD) if name in others][:1]
            panels = [name for name in others if name not in lined]
            for end, title, own in _panels(rows, panels):
                lines = _arm_lines(own, arm, x, lined)
                if arm != "disabled" and all(row.get(CALL_TOP_K) != 0 for row in own):
                    tuned_by = [name for name in lined if name != CALL_TOP_K]
                    lines |= _arm_lines(own, "disabled", x, tuned_by)
                lines |= _arm_lines(own, "base", x, [])
                yield f"{benchmark}_by_{x}{end}", _figure(f"{benchmark}{title}", x, label, lines)


def _arm_lines(rows: Sequence[Row], arm: str, x: str, names: Sequence[str]) -> Lines:
    own = [row for row in rows if row["arm"] == arm]
    lines = _lines(own, x, names, lambda row: (row["value"], row["low"], row["high"]))
    title = _ARM_NAMES.get(arm, arm)
    return {", ".join(filter(None, (title, name))): line for name, line in lines.items()}


def _calibration_figures(
    index_path: Path, variations: Sequence[Variation]
) -> Iterator[tuple[str, Figure]]:
    """What the tuned model knows without tools, of items where it calls and where it does not."""
    splits = query.select(index_path, _SPLITS)
    rows = [{**row, _RULE: calls_start(row)} for row in splits]
    for benchmark, own in by_benchmark(rows).items():
        for end, title, panel in _panels(own, _others(variations, CALL_TOP_K, *_RULE_SETTINGS)):
            lines: Lines = {}
            for side in ("called", "not_called"):
                known = _lines(panel, _RULE, [], partial(_known, side=side))
                lines |= {f"items {side.replace('_', ' ')}": line for line in known.values()}
            if lines:
                label = "share right with calls disabled"
                rules = [row[_RULE] for row in panel]
                figure = _figure(f"{benchmark}{title}", _RULE, label, lines, rules)
                yield f"calibration_{benchmark}{end}", figure


def _known(row: Row, side: str) -> Interval | None:
    share, n = row[f"disabled_{side}"], row[f"n_{side}"]
    return None if share is None else _share(share * n, n)


def _scaling_figures(
    index_path: Path, variations: Sequence[Variation]
) -> Iterator[tuple[str, Figure]]:
    """With and without calls by the number of parameters (paper, Figure 4)."""
    rows = [row for row in query.select(index_path, _SCORES) if row["num_parameters"]]
    if len({row["num_parameters"] for row in rows}) < 2:
        return
    ks = [name for name in _others(variations, MODEL) if name == CALL_TOP_K]
    for benchmark, own in by_benchmark(rows).items():
        for end, title, panel in _panels(own, _others(variations, MODEL, CALL_TOP_K)):
            lines: Lines = {}
            for arm, names in (("base", []), ("disabled", []), ("on", ks)):
                lines |= _arm_lines(panel, arm, "num_parameters", names)
            figure = _size_figure(f"{benchmark}{title}", _short(own[0]["metric"]), lines)
            yield f"scaling_{benchmark}{end}", figure


def _size_figure(title: str, y_label: str, lines: Lines) -> Figure:
    figure, axes = new_axes(2.9, title)
    for number, (label, line) in enumerate(lines.items()):
        points = sorted((size, _pooled(found)) for size, found in line.items())
        xs = [size for size, _ in points]
        interval_line(axes, xs, [point for _, point in points], number=number, label=label)
    sizes = sorted({size for line in lines.values() for size in line})
    axes.set_xscale("log")
    axes.set_xticks(sizes, [_size(size) for size in sizes])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("parameters")
    _label(figure, axes, y_label)
    return figure


def _short(metric: str) -> str:
    return textwrap.shorten(metric, 60, placeholder=" ...")


def _size(num_parameters: int) -> str:
    """As in 135M or 6.7B."""
    for scale, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if num_parameters >= scale:
            return f"{num_parameters / scale:.3g}{letter}"
    return str(num_parameters)


def _lines(
    rows: Iterable[Row],
    x: str,
    names: Sequence[str],
    point: Callable[[Row], Interval | None],
) -> Lines:
    """The points of each line, along x; a row without a point is left out."""
    lines: Lines = {}
    for row in rows:
        found = point(row)
        if found is not None:
            parts = [shown(row[n]) if n == "tool" else f"{n} {shown(row[n])}" for n in names]
            lines.setdefault(", ".join(parts), {}).setdefault(row[x], []).append(found)
    return lines


def _points(lines: Lines) -> Iterator[Interval]:
    for line in lines.values():
        for found in line.values():
            yield from found


def _pooled(points: Sequence[Interval]) -> Interval:
    """One point; several that differ become their mean, between the lowest and the highest."""
    if len(set(points)) == 1:
        return points[0]
    values = [value for value, _, _ in points]
    return sum(values) / len(values), min(values), max(values)


def _figure(title: str, x: str, y_label: str, lines: Lines, in_order: Sequence[str] = ()) -> Figure:
    """Lines over evenly spaced values: thresholds and k grow by factors.

    Numbers are sorted; texts stand `in_order`, or as the lines have them.
    """
    figure, axes = new_axes(2.9, title)
    values = (value for line in lines.values() for value in line)
    places = list(dict.fromkeys([*in_order, *values]))
    if not any(isinstance(place, str) for place in places):
        places.sort()
    has_intervals = any(low < high for _, low, high in _points(lines))
    for number, (label, line) in enumerate(lines.items()):
        shift = (number - (len(lines) - 1) / 2) * _DODGE * has_intervals
        ordered = sorted((places.index(value), _pooled(found)) for value, found in line.items())
        xs = [place + shift for place, _ in ordered]
        interval_line(axes, xs, [point for _, point in ordered], number=number, label=label)
    axes.set_xticks(range(len(places)), [shown(place) for place in places])
    axes.set_xlim(-0.5, len(places) - 0.5)
    axes.set_xlabel(f"{x}, nats" if x.startswith("tau_f") else x)
    _label(figure, axes, y_label)
    return figure


def _label(figure: Figure, axes: Axes, y_label: str) -> None:
    """Name the axis, and below the figure the lines."""
    axes.set_ylabel(textwrap.fill(y_label, 34))
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
