"""The report of an evaluation: on its own, and as a section of a run's report.

Everything comes from the index, the settings and the evaluation table. The paper's figures stand
beside ours only for its own benchmarks, never for a set that stands in for one of them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from tasks.index import query
from tasks.report.commands import calls_command, evaluate_command
from tasks.report.evaluation_figures import evaluation_figures
from tasks.report.figure_style import inline_svg
from tasks.report.render import render
from toolformer_core.config.overrides import flat_settings
from toolformer_core.config.pipeline import PipelineConfig
from toolformer_core.evaluation import published
from toolformer_core.evaluation.conclusion import conclusions

_NUM_EXAMPLES = 5
_EXAMPLES = f"""
WITH ranked AS (
    SELECT *, row_number() OVER (PARTITION BY benchmark, verdict ORDER BY item_id) AS nth
    FROM answer_pairs WHERE verdict IN ('gained', 'lost')
)
SELECT * FROM ranked
QUALIFY row_number() OVER (PARTITION BY verdict ORDER BY nth, benchmark) <= {_NUM_EXAMPLES}
ORDER BY verdict, nth, benchmark
"""  # the benchmarks in turn, their items in the order of arbitrary ids: nobody picks
_QUERIES = {
    "arms": "SELECT * FROM evaluation",
    "splits": "SELECT * FROM call_split",
    "perplexities": "SELECT * FROM perplexities",
    "changed": "SELECT * FROM answer_pairs WHERE verdict IN ('gained', 'lost')",
}
_SECTIONS = ("model", "tools", "execute", "evaluate")  # of the settings, those that matter here

Row = Mapping[str, Any]  # Any: text and numbers; of the evaluation table the keys of ArmScore


def render_evaluation(
    index_path: Path,
    config: PipelineConfig,
    scores: Sequence[Row],
    links: Mapping[str, str],
    drawn: Mapping[str, Figure] | None = None,
) -> str:
    """The report of an evaluation alone as one HTML text, with the figures of evaluation_figures.

    Links are facts of the evaluation; "tuned model" among them is what its command names.
    Raises: ConfigError if there is no index.
    """
    model, root = links.get("tuned model", "MODEL"), index_path.parent
    figures = evaluation_figures(index_path) if drawn is None else drawn
    return render(
        "evaluation_page.html.j2",
        {
            "facts": _facts(config),
            "links": links,
            "settings": {
                key: value
                for key, value in flat_settings(config).items()
                if key.partition(".")[0] in _SECTIONS
            },
            "figures": {name: inline_svg(name, figure) for name, figure in figures.items()},
            **evaluation_context(index_path, config, scores, evaluate_command(model, config, root)),
        },
    )


def evaluation_context(
    index_path: Path, config: PipelineConfig, scores: Sequence[Row], command: str
) -> dict[str, Any]:  # Any: what evaluation.html.j2 shows
    """What the section needs besides the figures; `command` is the one that evaluates again."""
    return {
        "scores": scores,
        "metrics": {score["benchmark"]: score["metric"] for score in scores},
        "conclusions": conclusions(scores),
        "model": config.model.name_or_path,
        "calls_start": _calls_start(config),
        "tables": _tables(scores),
        "splits": [
            {**row, "paper": _published_split(row, config)}
            for row in query.select(index_path, "SELECT * FROM call_split")
        ],
        "perplexities": query.select(index_path, "SELECT * FROM perplexities"),
        "changed": query.select(index_path, _EXAMPLES),
        "evaluate_command": command,
        "evaluation_queries": {
            name: calls_command(index_path.parent, sql) for name, sql in _QUERIES.items()
        },
    }


def _facts(config: PipelineConfig) -> dict[str, str]:
    chosen = config.evaluate
    return {
        "base model": config.model.name_or_path,
        "tools": ", ".join(config.tools.enabled),
        "a call starts at": _calls_start(config),
        "calls per input": str(chosen.decode.max_calls),
        "seed": str(chosen.seed),
    }


def _calls_start(config: PipelineConfig) -> str:
    threshold = config.evaluate.decode.call_threshold
    return f"k = {config.evaluate.decode.top_k}" if threshold is None else f"p = {threshold}"


def _published_split(row: Row, config: PipelineConfig) -> published.PublishedSplit | None:
    """The paper's row of Table 9, if calls started by the same rule."""
    if config.evaluate.decode.call_threshold is not None:
        return None
    return published.SPLITS.get(row["benchmark"], {}).get(row["call_top_k"])


def _tables(scores: Sequence[Row]) -> list[dict[str, Any]]:  # Any: cells of a table
    """The paper's tables, of each the columns whose benchmark was run."""
    ours: dict[str, dict[str, Row]] = {}
    for score in scores:
        ours.setdefault(score["benchmark"], {})[score["arm"]] = score
    tables = []
    for table, title in published.TABLE_TITLES.items():
        columns = {name: column for name, column in published.SETS.items() if column.table == table}
        run = [name for name in columns if name in ours]
        if run:
            sizes = [max(score["n"] for score in ours[name].values()) for name in run]
            heads = [(columns[name].title, n) for name, n in zip(run, sizes, strict=True)]
            rows = _table_rows([(columns[name], ours[name]) for name in run])
            scale = 1 if table == published.PERPLEXITY_TABLE else 100
            shown = {"number": table, "title": title, "scale": scale}
            tables.append({**shown, "heads": heads, "rows": rows})
    return tables


def _table_rows(
    columns: Sequence[tuple[published.PublishedSet, Mapping[str, Row]]],
) -> list[dict[str, Any]]:  # Any: as above
    """The paper's name of each row, our arm, and per column the paper's figure and ours."""
    rows = []
    for label, arm in published.ROWS.items():
        cells = [
            (column.figures.get(label), by_arm.get(arm) if arm else None)
            for column, by_arm in columns
        ]
        if any(figure is not None or score is not None for figure, score in cells):
            rows.append({"label": label, "arm": arm, "cells": cells})
    return rows
