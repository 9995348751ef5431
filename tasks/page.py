"""The HTML report of a run: one self-contained page, and its figures.

Everything comes from the index and the settings. The page loads nothing (its own security policy
forbids it), holds no clock, and is the same text for the same index. Figures are told apart by
line style, marker and hatching, so that the page can be printed in black and white.
"""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from tasks import index
from toolformer_core.config import PipelineConfig
from toolformer_core.records import Outcome

_STYLE: dict[str, Any] = {  # Any: matplotlib settings
    "svg.hashsalt": "toolformer",  # the same ids in every process
    "svg.fonttype": "none",  # text stays text: searchable, and small
    "text.parse_math": False,  # a tool's name may hold a dollar sign
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 0.7,
}
_INK, _SHADE, _PALE = "#1a1a1a", "#a9c4da", "#e4e4e4"
_LINES = ("-", "--", ":", "-.")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_STEPS = ("calls", "parsed", "executed", "scored", "kept")
_NUM_BINS = 30
_LOG_SCALE_FROM = 100  # a tall bar of useless calls would hide the few kept ones

Row = Mapping[str, Any]  # Any: DuckDB values


@contextmanager
def _style() -> Iterator[None]:
    with mpl.rc_context(_STYLE):  # type: ignore[arg-type]  # stubs know the keys one by one
        yield


def figures(index_path: Path) -> dict[str, Figure]:
    """Every figure of the report by name; one that would be empty is left out.

    Names: funnel_TOOL, loss_reduction_TOOL, threshold_sweep_kept, threshold_sweep_right.
    """
    funnel = index.funnel(index_path)
    sweep = index.select(index_path, "SELECT * FROM threshold_sweep")
    by_tool = {tool: [row for row in sweep if row["tool"] == tool] for tool in funnel}
    drawn: dict[str, Figure] = {}
    with _style():
        for tool, counts in funnel.items():
            if counts["calls"]:
                drawn[f"funnel_{tool}"] = _funnel_figure(tool, counts)
            bins = _histogram(index_path, tool)
            if bins:
                in_force = [r["filtering_threshold"] for r in by_tool[tool] if r["is_in_force"]]
                drawn[f"loss_reduction_{tool}"] = _histogram_figure(tool, bins, in_force)
        scored = {tool: rows for tool, rows in by_tool.items() if funnel[tool]["scored"]}
        if scored:
            drawn["threshold_sweep_kept"] = _kept_figure(scored)
        if any(row["checkable"] for row in sweep):
            drawn["threshold_sweep_right"] = _right_figure(scored)
    return drawn


def _axes(height: float, title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.0, height), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title)
    return figure, axes


def _funnel_figure(tool: str, counts: Row) -> Figure:
    """Bars from calls to kept; the right ones among the kept are hatched."""
    figure, axes = _axes(1.9, tool)
    values = [counts[step] for step in _STEPS]
    bars = axes.barh(_STEPS, values, color=_PALE, edgecolor=_INK, linewidth=0.8)
    labels = [f"{value:,}" for value in values]
    if counts["checkable"]:
        labels[-1] += f" ({counts['right']} of {counts['checkable']} checkable right)"
        axes.barh(["kept"], [counts["right"]], color=_SHADE, edgecolor=_INK, hatch="////")
    axes.bar_label(bars, labels=labels, padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.45)
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)
    return figure


def _histogram(index_path: Path, tool: str) -> index.Rows:
    """Counts of loss_reduction in bins of equal width, one edge lying on the threshold.

    What lies beyond the central 99% is counted in the end bins.
    """
    return index.select(
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
    figure, axes = _axes(2.4, tool)
    threshold = in_force[0] if in_force else float("inf")
    for label, is_kept in (("below", False), ("at or above", True)):
        side = [row for row in bins if (row["left_edge"] >= threshold - 1e-9) == is_kept]
        axes.bar(
            [row["left_edge"] for row in side],
            [row["n"] for row in side],
            width=[row["width"] for row in side] or 1,
            align="edge",
            color=_SHADE if is_kept else _PALE,
            edgecolor=_INK,
            linewidth=0.6,
            hatch="////" if is_kept else None,
            label=f"{label}: {sum(row['n'] for row in side):,}",
        )
    for value in in_force:
        axes.axvline(value, color=_INK, linestyle="--", linewidth=1.2, label=f"tau_f = {value:g}")
    if max(row["n"] for row in bins) > _LOG_SCALE_FROM:
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.7)
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_xlabel("loss_reduction, nats")
    axes.set_ylabel("calls")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def _kept_figure(sweep: Mapping[str, Sequence[Row]]) -> Figure:
    figure, axes = _axes(2.7, "Calls kept at each threshold")
    curves = {
        tool: [(row["filtering_threshold"], row["kept"], row["is_in_force"]) for row in rows]
        for tool, rows in sweep.items()
    }
    _draw_curves(axes, curves)
    axes.set_ylabel("calls kept")
    axes.set_ylim(bottom=0)
    return figure


def _right_figure(sweep: Mapping[str, Sequence[Row]]) -> Figure:
    figure, axes = _axes(2.7, "Share right among checkable kept calls")
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
            linestyle=_LINES[number % len(_LINES)],
            marker=_MARKERS[number % len(_MARKERS)],
            color=_INK,
            markerfacecolor="white" if number % 2 else _INK,
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
            markeredgecolor=_INK,
        )
    axes.set_xlabel("tau_f, nats (ring: in force)")
    axes.set_xlim(left=0)
    axes.legend(frameon=False, fontsize=8)


def _svg(name: str, figure: Figure) -> Markup:
    """The figure as an inline SVG element, its ids made unique within the page."""
    buffer = io.StringIO()
    with _style():
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    prefix = re.sub(r"\W", "-", name)
    for reference in (' id="', "url(#", 'href="#'):
        text = text.replace(reference, f"{reference}{prefix}-")
    # Safe: matplotlib wrote it and escapes every text it draws.
    return Markup(text[text.index("<svg") :])


def render_page(
    index_path: Path,
    config: PipelineConfig,
    scores: Sequence[Mapping[str, Any]],  # Any: text and numbers; see the keys below
    links: Mapping[str, str],
) -> str:
    """The report as one HTML text.

    Scores have the keys benchmark, arm, metric, value, low, high, n, call_rate, malformed_rate.
    Links are shown with the run's facts: web addresses as links, all else (versions, paths) as
    text.
    Raises: ConfigError if there is no index.
    """
    settings = index.flat_settings(config)
    funnel = index.funnel(index_path)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "share": _share, "grouped": _grouped}
    return environment.get_template("page.html.j2").render(
        facts=_facts(config, settings),
        links=links,
        funnel=funnel,
        reasons=_reasons(funnel),
        sweep=index.select(index_path, "SELECT * FROM threshold_sweep"),
        prune_below=config.sample.prune_below,
        figures={name: _svg(name, figure) for name, figure in figures(index_path).items()},
        examples={tool: _examples(index_path, tool) for tool in funnel},
        scores=scores,
        health=index.select(index_path, "SELECT * FROM tool_health"),
        outcomes=[outcome.value for outcome in Outcome],
        corpus=_corpus_counts(index_path),
        quarantined=_quarantined(index_path),
        settings=settings,
        diagnosis=index.diagnose(index_path),
    )


def _facts(config: PipelineConfig, settings: Mapping[str, str]) -> dict[str, str]:
    """What a reader asks first: label to text; per-tool settings name their tools."""
    labels = {
        "sampling threshold tau_s": "sample.sampling_threshold",
        "filtering threshold tau_f": "filter.filtering_threshold",
        "positions per document k": "sample.max_positions",
        "samples per position m": "sample.samples_per_position",
        "seed": "sample.seed",
    }
    facts = {
        "model": config.model.name_or_path
        + (f" @ {config.model.revision}" if config.model.revision else ""),
        "arithmetic": config.model.dtype,
        "tools": ", ".join(config.tools.enabled),
        "corpus": ", ".join(config.corpus.sources) or "none",
    }
    for label, key in labels.items():
        by_tool = {k.removeprefix(f"{key}."): v for k, v in settings.items() if k.startswith(key)}
        shown = [f"{tool} {value}" for tool, value in by_tool.items()]
        facts[label] = settings[key] if key in settings else ", ".join(shown)
    return facts


def _reasons(funnel: Mapping[str, Row]) -> list[str]:
    """Reasons of all tools, most frequent first."""
    totals: dict[str, int] = {}
    for counts in funnel.values():
        for reason, n in counts["dropped"].items():
            totals[reason] = totals.get(reason, 0) + n
    return sorted(totals, key=lambda reason: (-totals[reason], reason))


def _examples(index_path: Path, tool: str) -> list[tuple[str, index.Rows]]:
    return [
        ("Kept", index.examples(index_path, "kept_examples", tool)),
        ("Dropped", index.examples(index_path, "dropped_examples", tool)),
    ]


def _corpus_counts(index_path: Path) -> dict[str, int]:
    """Every count of the corpus stage, the largest first."""
    rows = index.select(
        index_path,
        "SELECT reason, sum(n)::BIGINT AS n FROM stage_counts "
        "WHERE stage IN ('corpus', 'quarantine') GROUP BY reason ORDER BY n DESC, reason",
    )
    return {row["reason"]: row["n"] for row in rows}


def _quarantined(index_path: Path) -> index.Rows:
    return index.select(
        index_path,
        "SELECT source, reason, count(*) AS n, min(row_number) AS first_row, "
        "arg_min(excerpt, row_number) AS excerpt "
        "FROM quarantined GROUP BY source, reason ORDER BY n DESC, source, reason",
    )


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f}%"


def _grouped(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"
