"""Sweep: what came of each cell, counted, and written down for queries and for people."""

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from prefect.artifacts import create_link_artifact, create_table_artifact
from safetensors import safe_open

from tasks.index.build import build_sweep_index
from tasks.output.json_file import write_whole
from tasks.report.artifacts import INDEX, PAGE
from tasks.report.figure_style import save_pictures
from tasks.report.sweep_figures import sweep_figures
from tasks.report.sweep_page import SETTINGS, render_sweep
from tasks.running.policies import effect_task
from toolformer_core.config.pipeline import PipelineConfig
from toolformer_core.config.variations import Cell, Variation
from toolformer_core.evaluate import ArmScore
from toolformer_core.filter import filter_calls
from toolformer_core.finetune import FinetuneResult
from toolformer_core.models import ModelRef
from toolformer_core.records import ScoredCall
from toolformer_core.shards import ShardRef, arrow_schema, read_manifest, read_shard
from toolformer_core.yaml_text import dump_yaml

Figures = Mapping[str, Any]  # Any: text and numbers

SUMMARY = "sweep.json"
COUNTS = ("kept", "checkable", "right")


@dataclass(frozen=True, slots=True, kw_only=True)
class CellResult:
    """What came of a cell: calls per tool and, where a model was trained, its evaluation."""

    cell: Cell
    num_parameters: int | None
    counts: Mapping[str, Mapping[str, int]]
    reason: str = ""  # why no model was trained
    training: Mapping[str, float] = field(default_factory=dict)
    answered: tuple[ShardRef, ...] = ()
    scores: tuple[Figures, ...] = ()  # rows of ArmScore

    @property
    def num_kept(self) -> int:
        """Calls of all tools."""
        return sum(row["kept"] for row in self.counts.values())

    def threshold(self, tool: str) -> float:
        """The tool's tau_f."""
        return self.cell.config.of_tool(tool).filtering_threshold

    def metrics(self) -> dict[str, float]:
        """Figures for MLflow, named as those of a run; the scores come on their own."""
        counts = {
            f"filter/{tool}/{name}_count": float(row[name])
            for tool, row in self.counts.items()
            for name in COUNTS
        }
        counts["filter/all/kept_count"] = float(self.num_kept)
        return counts | {f"finetune/{name}": float(v) for name, v in self.training.items()}

    def summary(self) -> dict[str, Any]:  # Any: nested figures
        """The cell as JSON."""
        return {
            "values": dict(self.cell.values),
            "tools": {
                tool: {"filtering_threshold": self.threshold(tool), **row}
                for tool, row in self.counts.items()
            },
            "kept": self.num_kept,
            "reason": self.reason,
            "num_parameters": self.num_parameters,
            "training": dict(self.training),
            "scores": [dict(score) for score in self.scores],
        }


@effect_task
def count_kept(
    scored: Sequence[Path], thresholds: Sequence[float]
) -> dict[str, dict[float, dict[str, int]]]:
    """Per tool and threshold: calls kept, those the text can judge, and the right ones.

    It takes the stored losses, read once, and no forward pass (paper, Table 2).
    """
    counts = {}
    for ref in map(read_manifest, scored):
        found: Counter[tuple[float, str]] = Counter()
        for shard in ref.shards:
            calls = read_shard(shard, ScoredCall)
            for threshold in thresholds:
                kept = [one for one in filter_calls(calls, threshold) if one.kept]
                found[threshold, "kept"] += len(kept)
                found[threshold, "checkable"] += sum(one.is_right is not None for one in kept)
                found[threshold, "right"] += sum(one.is_right is True for one in kept)
        counts[ref.tool] = {t: {name: found[t, name] for name in COUNTS} for t in thresholds}
    return counts


def training_figures(tuned: FinetuneResult) -> dict[str, float]:
    """Size of C* and the curves at the chosen checkpoint, named as a run's metrics are."""
    reached = {
        f"{name}_nats" if name.endswith("loss") else name: value
        for name, curve in tuned.curves.items()
        for step, value in curve
        if step <= tuned.chosen_step
    }
    return {
        "train_texts_count": tuned.num_train,
        "chosen_step": tuned.chosen_step,
        **reached,
    }


@effect_task
def count_parameters(model: ModelRef) -> int | None:
    """Size of a model by the headers of its weights; None where these are not safetensors."""
    paths = sorted(Path(model.path).glob("*.safetensors"))
    return sum(map(_tensor_sizes, paths)) if paths else None


def _tensor_sizes(path: Path) -> int:
    total = 0
    with safe_open(path, framework="numpy") as tensors:
        for name in tensors.keys():  # noqa: SIM118 - it is no mapping
            size = 1
            for extent in tensors.get_slice(name).get_shape():
                size *= extent
            total += size
    return total


@effect_task
def write_sweep(
    results: Sequence[CellResult],
    variations: Sequence[Variation],
    config: PipelineConfig,
    links: Mapping[str, str],
    folder: Path,
) -> tuple[Path, Path]:
    """The sweep's index and its self-contained HTML report, both in its own folder."""
    index, page = folder / INDEX, folder / PAGE
    shards = {shard.path: shard for result in results for shard in result.answered}
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / SETTINGS, dump_yaml(config.model_dump(mode="json")))
    build_sweep_index(sweep_tables(results), list(shards.values()), index)
    drawn = sweep_figures(index, variations)
    save_pictures(drawn, folder)
    write_whole(page, render_sweep(index, variations, config, links, drawn))
    create_link_artifact(link=page.absolute().as_uri(), key="sweep", link_text="HTML report")
    rows = [{**result.cell.values, "kept": result.num_kept} for result in results]
    create_table_artifact(table=rows, key="cells", description="Calls kept in each cell")
    return index, page


@effect_task
def write_summary(
    results: Sequence[CellResult],
    work: Mapping[str, Mapping[str, int]],
    seconds: float,
    folder: Path,
    used: Collection[Path],
) -> dict[str, Any]:  # Any: nested figures
    """The sweep as JSON, also as sweep.json beside its report; `used` are the stages' folders."""
    summary = {
        "cells": [result.summary() for result in results],
        "work": {stage: dict(tally) for stage, tally in work.items()},
        "seconds": round(seconds, 1),
        "report": str(folder / PAGE),
        "index": str(folder / INDEX),
    }
    root = folder.parents[1]
    folders = sorted(path.relative_to(root).as_posix() for path in used)
    write_whole(folder / SUMMARY, json.dumps({**summary, "folders": folders}, indent=1))
    return summary


def sweep_tables(results: Sequence[CellResult]) -> dict[str, pa.Table]:
    """The small tables of the index: see sweep_views.sql."""
    counts = [
        {
            "cell": number,
            "tool": tool,
            "filtering_threshold": result.threshold(tool),
            "kept": row["kept"],
            "checkable": row["checkable"],
            "right_calls": row["right"],  # "right" is a reserved word
        }
        for number, result in enumerate(results)
        for tool, row in result.counts.items()
    ]
    scores = [
        {"cell": number, **score}
        for number, result in enumerate(results)
        for score in result.scores
    ]
    shards = [
        {"cell": number, "shard": shard.path}
        for number, result in enumerate(results)
        for shard in result.answered
    ]
    text, integer = pa.string(), pa.int64()
    score_schema = pa.schema([pa.field("cell", integer), *arrow_schema(ArmScore)])
    return {
        "cells": _cells_table(results),
        "cell_counts": pa.Table.from_pylist(counts),
        "scores": pa.Table.from_pylist(scores, schema=score_schema),
        "cell_shards": pa.Table.from_pylist(
            shards, schema=pa.schema([("cell", integer), ("shard", text)])
        ),
    }


def _cells_table(results: Sequence[CellResult]) -> pa.Table:
    """One row per cell; a column is of numbers where all its values are."""
    names = list(results[0].cell.values)
    training = sorted({name for result in results for name in result.training})
    columns: dict[str, list[Any] | pa.Array] = {"cell": list(range(len(results)))}
    for name in names:
        values = [result.cell.values[name] for result in results]
        is_text = any(isinstance(value, str) for value in values)
        columns[name] = [str(value) for value in values] if is_text else values
    columns["calls_kept"] = [result.num_kept for result in results]
    rules = [result.cell.config.evaluate.decode.call_threshold for result in results]
    columns["call_threshold"] = pa.array(rules, pa.float64())  # null: calls start by rank
    columns["num_parameters"] = [result.num_parameters for result in results]
    columns |= {name: [result.training.get(name) for result in results] for name in training}
    columns["reason"] = [result.reason for result in results]
    return pa.table(columns)
