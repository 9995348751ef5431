"""The HTML report of a run: one self-contained page.

Everything comes from the index and the settings. The page loads nothing (its own security policy
forbids it), holds no clock, and is the same text for the same index.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from tasks.index import query
from tasks.report.call_rule_figures import call_rule_figures
from tasks.report.commands import calls_command, evaluate_command, funnel_command
from tasks.report.diagnosis import diagnose
from tasks.report.evaluation_page import evaluation_context
from tasks.report.figure_style import inline_svg
from tasks.report.figures import figures
from tasks.report.reliability import JUDGED_CALLS, reliability_lines
from tasks.report.render import render
from toolformer_core.call_rule import CallChoice, with_choice
from toolformer_core.config.overrides import flat_settings
from toolformer_core.config.pipeline import PipelineConfig
from toolformer_core.evaluation import published
from toolformer_core.records import Outcome

_QUERIES = {
    "drops": "SELECT * FROM drops",
    "losses": "SELECT tool, loss_reduction, kept FROM candidates WHERE isfinite(loss_reduction)",
    "explained": "SELECT * FROM candidates ORDER BY loss_reduction DESC NULLS LAST",
    "reliability": JUDGED_CALLS,
    "sweep": "SELECT * FROM threshold_sweep",
    "kept": "SELECT * FROM kept_examples",
    "dropped": "SELECT * FROM dropped_examples",
    "health": "SELECT * FROM tool_health",
    "counts": "SELECT * FROM stage_counts WHERE stage IN ('corpus', 'quarantine')",
    "quarantined": "SELECT * FROM quarantined",
}

_MAX_SHOWN_SOURCES = 3

Row = Mapping[str, Any]  # Any: DuckDB values


def page_figures(index_path: Path, choice: CallChoice | None) -> dict[str, Figure]:
    """The report's figures by name."""
    return {**figures(index_path), **call_rule_figures(choice)}


def render_page(
    index_path: Path,
    config: PipelineConfig,
    scores: Sequence[Mapping[str, Any]],  # Any: text and numbers; see the keys below
    links: Mapping[str, str],
    choice: CallChoice | None = None,
    drawn: Mapping[str, Figure] | None = None,
) -> str:
    """The report as one HTML text, with the figures of page_figures.

    Scores have the keys of ArmScore. With a choice it shows when calls start.
    Links are shown with the run's facts: web addresses as links, all else (versions, paths) as
    text.
    Raises: ConfigError if there is no index.
    """
    settings = flat_settings(config)
    funnel = query.funnel(index_path)
    root = index_path.parent
    chosen = with_choice(config, choice)
    evaluated_by = evaluate_command(str(root / "model"), chosen, None)
    drawn = page_figures(index_path, choice) if drawn is None else drawn
    return render(
        "page.html.j2",
        {
            "facts": _facts(config, settings),
            "links": links,
            "funnel": funnel,
            "reasons": _reasons(funnel),
            "sweep": [
                {**row, "paper": _kept_in_the_paper(row)}
                for row in query.select(index_path, "SELECT * FROM threshold_sweep")
            ],
            "prune_below": max(config.of_tool(tool).prune_below for tool in config.tools.enabled),
            "figures": {name: inline_svg(name, figure) for name, figure in drawn.items()},
            "examples": {tool: _examples(index_path, tool) for tool in funnel},
            "health": query.select(index_path, "SELECT * FROM tool_health"),
            "outcomes": [outcome.value for outcome in Outcome],
            "corpus": _corpus_counts(index_path),
            "quarantined": _quarantined(index_path),
            "settings": settings,
            "diagnosis": diagnose(index_path),
            "reliability": reliability_lines(index_path),
            "funnel_command": funnel_command(root),
            "queries": {name: calls_command(root, sql) for name, sql in _QUERIES.items()},
            "choice": choice,
            **evaluation_context(index_path, chosen, scores, evaluated_by),
        },
    )


def _kept_in_the_paper(row: Row) -> int | None:
    """The paper's count for the same tool and threshold, if it has one."""
    return published.CALLS_BY_THRESHOLD.get(row["tool"], {}).get(row["filtering_threshold"])


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
        "tools": ", ".join(config.tools.enabled),
        "corpus": _shown(config.corpus.sources),
    }
    for label, key in labels.items():
        by_tool = {k.removeprefix(f"{key}."): v for k, v in settings.items() if k.startswith(key)}
        shown = [f"{tool} {value}" for tool, value in by_tool.items()]
        facts[label] = settings[key] if key in settings else ", ".join(shown)
    return facts


def _shown(sources: Sequence[str]) -> str:
    """Few sources by name; many would fill the page's head."""
    if len(sources) > _MAX_SHOWN_SOURCES:
        return f"{len(sources)} sources, see the settings"
    return ", ".join(sources) or "none"


def _reasons(funnel: Mapping[str, Row]) -> list[str]:
    """Reasons of all tools, most frequent first."""
    totals: dict[str, int] = {}
    for counts in funnel.values():
        for reason, n in counts["dropped"].items():
            totals[reason] = totals.get(reason, 0) + n
    return sorted(totals, key=lambda reason: (-totals[reason], reason))


def _examples(index_path: Path, tool: str) -> list[tuple[str, query.Rows]]:
    return [
        ("Kept", query.examples(index_path, "kept_examples", tool)),
        ("Dropped", query.examples(index_path, "dropped_examples", tool)),
    ]


def _corpus_counts(index_path: Path) -> dict[str, int]:
    """Every count of the corpus stage, the largest first."""
    rows = query.select(
        index_path,
        "SELECT reason, sum(n)::BIGINT AS n FROM stage_counts "
        "WHERE stage IN ('corpus', 'quarantine') GROUP BY reason ORDER BY n DESC, reason",
    )
    return {row["reason"]: row["n"] for row in rows}


def _quarantined(index_path: Path) -> query.Rows:
    return query.select(
        index_path,
        "SELECT source, reason, count(*) AS n, min(row_number) AS first_row, "
        "arg_min(excerpt, row_number) AS excerpt "
        "FROM quarantined GROUP BY source, reason ORDER BY n DESC, source, reason",
    )
