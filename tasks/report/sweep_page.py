"""The report of a sweep: one self-contained page, made from its index.

The paper's counts and accuracies stand beside ours where the value that varies is equal; they are
of another model, other texts and, mostly, other items.
"""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from tasks.index import query
from tasks.report.commands import calls_command
from tasks.report.figure_style import inline_svg
from tasks.report.render import render
from tasks.report.sweep_figures import (
    Row,
    by_benchmark,
    calls_start,
    measured_arm,
    shown,
    sweep_figures,
)
from toolformer_core.config.overrides import flat_settings
from toolformer_core.config.pipeline import PipelineConfig
from toolformer_core.config.variations import MODEL, Variation, as_options, needs_training
from toolformer_core.evaluation import published

SETTINGS = "settings.yaml"
_PREFIXES = {
    "counts": ("kept_by_", "right_by_"),
    "calibration": ("calibration_",),
    "scaling": ("scaling_",),
}
"""Of the names of figures, by section; all others show scores."""
_QUERIES = {
    "cells": "SELECT * FROM cells ORDER BY cell",
    "counts": "SELECT * FROM cell_counts JOIN cells USING (cell) ORDER BY tool, cell",
    "scores": "SELECT * FROM scores JOIN cells USING (cell) ORDER BY benchmark, arm, cell",
    "splits": "SELECT * FROM call_split JOIN cells USING (cell) ORDER BY benchmark, cell",
    "items": "SELECT cell, arm, prompt, gold, completion, score FROM items",
}


def render_sweep(
    index_path: Path,
    variations: Sequence[Variation],
    config: PipelineConfig,
    links: Mapping[str, str],
    drawn: Mapping[str, Figure] | None = None,
) -> str:
    """The report as one HTML text, with those of sweep_figures; `config` holds what does not vary.

    Raises: ConfigError if there is no index.
    """
    folder = index_path.parent
    scores = query.select(index_path, _QUERIES["scores"])
    counts = query.select(index_path, _QUERIES["counts"])
    drawn = sweep_figures(index_path, variations) if drawn is None else drawn
    return render(
        "sweep.html.j2",
        {
            "facts": _facts(config, variations),
            "links": links,
            "settings": flat_settings(config),
            "names": [variation.name for variation in variations],
            "cells": query.select(index_path, _QUERIES["cells"]),
            "measured": _measured(scores),
            "scores": scores,
            "counts": _distinct(counts, [v.name for v in variations if not needs_training([v])]),
            "splits": [
                {**row, "calls_start": calls_start(row), "paper": _published_split(row)}
                for row in query.select(index_path, _QUERIES["splits"])
            ],
            "figures": _by_section(drawn),
            "shown": shown,
            "command": sweep_command(folder, variations, config),
            "queries": {name: calls_command(folder, sql) for name, sql in _QUERIES.items()},
        },
    )


def _by_section(drawn: Mapping[str, Figure]) -> dict[str, list[Markup]]:
    """The figures of each section, ready for the page."""
    found: dict[str, list[Markup]] = {name: [] for name in (*_PREFIXES, "scores")}
    for name, figure in drawn.items():
        section = next((s for s, given in _PREFIXES.items() if name.startswith(given)), "scores")
        found[section].append(inline_svg(name, figure))
    return found


def sweep_command(folder: Path, variations: Sequence[Variation], config: PipelineConfig) -> str:
    """The command that makes the sweep in a folder again, ROOT/sweeps/NAME.

    A proposer's address is no setting, so its place is taken by a word.
    """
    options = [word for variation in variations for word in as_options(variation)]
    places = ["--config", str(folder / SETTINGS), "--out", str(folder.parents[1])]
    proposer = [] if config.proposer.model is None else ["--proposer", "URL"]
    return shlex.join(["toolformer", "sweep", *places, *proposer, *options])


def _published_split(row: Row) -> published.PublishedSplit | None:
    """The paper's row of Table 9, if calls started by the same rule."""
    if row["call_threshold"] is not None:
        return None
    return published.SPLITS.get(row["benchmark"], {}).get(row["call_top_k"])


def _facts(config: PipelineConfig, variations: Sequence[Variation]) -> dict[str, str]:
    varied = {v.name: ", ".join(v.values) for v in variations}
    fixed = {
        "model": config.model.name_or_path,
        "tools": ", ".join(config.tools.enabled),
        "corpus": _first(config.corpus.sources),
        "benchmarks": ", ".join(config.evaluate.benchmarks),
    }
    return {**{k: v for k, v in fixed.items() if k != MODEL or k not in varied}, **varied}


def _first(sources: Sequence[str]) -> str:
    """A corpus may have dozens; the settings name them all."""
    return " and ".join([*sources[:1], *([f"{len(sources) - 1} more"] if sources[1:] else [])])


def _measured(scores: Sequence[Row]) -> dict[str, dict[int, Row]]:
    """Per benchmark, the score of the arm that the sweep is about, by cell."""
    found = {}
    for benchmark, rows in by_benchmark(scores).items():
        arm = measured_arm(rows)
        found[benchmark] = {row["cell"]: row for row in rows if row["arm"] == arm}
    return found


def _distinct(counts: Sequence[Row], names: Sequence[str]) -> list[dict[str, Any]]:
    """One row per tool and combination of what counts depend on, with the paper's (Table 2)."""
    found: dict[tuple[object, ...], dict[str, Any]] = {}
    for row in counts:
        values = {name: row[name] for name in names}
        paper = published.CALLS_BY_THRESHOLD.get(row["tool"], {}).get(row["filtering_threshold"])
        key = (row["tool"], *values.values())
        found.setdefault(key, {**row, "values": values, "paper": paper})
    return list(found.values())
