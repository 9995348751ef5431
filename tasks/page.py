"""The HTML report of a run: one self-contained page.

Everything comes from the index and the settings. The page loads nothing (its own security policy
forbids it), holds no clock, and is the same text for the same index.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from tasks import index
from tasks.diagnosis import diagnose
from tasks.figures import figures, inline_svg
from toolformer_core.config import PipelineConfig, pruning_threshold
from toolformer_core.records import Outcome

Row = Mapping[str, Any]  # Any: DuckDB values


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
        prune_below=max(pruning_threshold(config, tool) for tool in config.tools.enabled),
        figures={name: inline_svg(name, figure) for name, figure in figures(index_path).items()},
        examples={tool: _examples(index_path, tool) for tool in funnel},
        scores=scores,
        health=index.select(index_path, "SELECT * FROM tool_health"),
        outcomes=[outcome.value for outcome in Outcome],
        corpus=_corpus_counts(index_path),
        quarantined=_quarantined(index_path),
        settings=settings,
        diagnosis=diagnose(index_path),
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
