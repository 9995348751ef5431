"""What annotation cost where it was measured: the figures that plan.py reckons with.

They come from a finished run, from `toolformer calibrate --json`, or from a device that was
measured with the demo's texts.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from toolformer_core.errors import ConfigError
from toolformer_core.shards import ShardRef, StageRef, read_footer, total_counts
from toolformer_core.storage import file_size

Figures = Mapping[str, Any]  # Any: numbers, and figures of figures

TASK_SECONDS = 0.25
"""Orchestration of one task: queueing, its key, its states and its result."""
TASK_BYTES = 800.0
"""Of the stored result of a task."""
INDEX_SHARE = 0.9
"""Bytes of the index for one of rows as Parquet, measured at ten million calls."""

_MODEL_STAGES = ("sample", "score")
CALL_STAGES = ("sample", "execute", "score", "filter")


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCost:
    """What a document costs with one tool; None where it was not measured."""

    tool: str
    model_seconds: float
    tool_seconds: float | None
    calls: float | None
    kept: float
    num_bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What was measured: per document, per file of a shard, and once."""

    source: str
    num_documents: int
    tools: tuple[ToolCost, ...]
    rest_seconds: float = 0.0  # per document: filtering, C*
    rest_bytes: float = 0.0  # per document: corpus, C*
    file_bytes: float = 6_000.0  # of a shard file without its rows
    task_bytes: float = TASK_BYTES  # of the stored result of a task
    fixed_seconds: float = 0.0  # start, index and report
    fixed_bytes: float = 3e6  # of an index without calls, and the report
    documents_per_shard: int | None = None  # as it was


def load_device(name: str) -> Figures:
    """Figures of a device that is known by name, or of a file that tests/bench/device.py wrote.

    Raises: ConfigError if there are none.
    """
    folder = resources.files("toolformer_core.planning.devices")
    known = sorted(
        entry.name.removesuffix(".json")
        for entry in folder.iterdir()
        if entry.name.endswith(".json")
    )
    if name not in known and not Path(name).is_file():
        raise ConfigError(
            f"device {name!r}: no figures; known: {', '.join(known)}, or a file that "
            "python -m tests.bench.device has written there"
        )
    text = (folder / f"{name}.json").read_text() if name in known else Path(name).read_text()
    return _figures(name, text, ("annotate", "finetune", "evaluate", "read", "num_parameters"))


def load_calibration(path: Path) -> Measured:
    """What `toolformer calibrate --json` measured, from the file that it was written to.

    Raises: ConfigError if it is no such file.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--calibration {path}: cannot be read ({error})") from error
    content = _figures(str(path), text, ("tools", "sample_documents"))
    tools = [tool for tool in content["tools"] if "predicted" in tool]
    if not tools:
        raise ConfigError(f"--calibration {path}: no tool was calibrated; calibrate on more texts")
    return Measured(
        source=str(path),
        num_documents=content["sample_documents"],
        tools=tuple(
            ToolCost(
                tool=tool["tool"],
                model_seconds=tool["predicted"]["seconds"],
                tool_seconds=None,
                calls=None,
                kept=tool["predicted"]["kept"],
                num_bytes=tool["predicted"]["num_bytes"],
            )
            for tool in tools
        ),
    )


def _figures(name: str, text: str, keys: Sequence[str]) -> Figures:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{name}: not JSON ({error})") from error
    missing = [key for key in keys if not isinstance(content, dict) or key not in content]
    if missing:
        raise ConfigError(f"{name}: no figures of {', '.join(missing)}; measure it again")
    return dict(content)


def of_device(name: str, figures: Figures) -> Measured:
    """The demo's texts and settings, as a device was measured with them."""
    return Measured(
        source=f"the demo's texts on {name}",
        num_documents=max(tool["documents"] for tool in figures["annotate"].values()),
        tools=tuple(
            ToolCost(
                tool=name,
                model_seconds=model_seconds(tool),
                tool_seconds=tool["seconds_calling_per_document"],
                calls=tool["calls_per_document"],
                kept=tool["kept_per_document"],
                num_bytes=tool["bytes_per_document"],
            )
            for name, tool in figures["annotate"].items()
        ),
    )


def model_seconds(tool: Figures) -> float:
    """Seconds of the model per document."""
    parts = ("reading", "sampling", "scoring")
    return float(sum(tool[f"seconds_{part}_per_document"] for part in parts))


def of_run(stages: Sequence[StageRef], seconds: float | None, root: Path) -> Measured:
    """What a finished run cost; `seconds` is its wall time from the start of its process.

    Raises: ConfigError if the run has no documents or was not timed.
    """
    corpus = [ref for ref in stages if ref.stage == "corpus"]
    num_documents = sum(shard.num_rows for ref in corpus for shard in ref.shards)
    if not num_documents:
        raise ConfigError(f"{root}: the run has no documents to plan from")
    by_tool = {(ref.tool, ref.stage): ref for ref in stages if ref.stage in CALL_STAGES}
    tools = dict.fromkeys(tool for tool, _ in by_tool)
    timed = [ref for ref in stages if ref.stage in (*CALL_STAGES, "augment")]
    if not any(shard.seconds for ref in timed for shard in ref.shards):
        raise ConfigError(
            f"{root}: its tasks were not timed, which runs are since this version; annotate anew "
            "in another folder"
        )
    computed = sum(_seconds(ref) * (1 - ref.num_cached / len(ref.shards)) for ref in timed)
    files = [shard for ref in stages for shard in ref.shards]
    file_bytes = sum(map(_overhead, files)) / len(files)
    others = [ref for ref in stages if ref.stage not in (*CALL_STAGES, "evaluate")]
    num_tasks = sum(len(ref.shards) for ref in timed)
    overhead = max(0.0, (seconds or computed) - computed - TASK_SECONDS * num_tasks)
    cassette = _file_size(root / "cassette.parquet")
    return Measured(
        source=str(root),
        num_documents=num_documents,
        tools=tuple(_tool_cost(tool, by_tool, file_bytes, num_documents) for tool in tools),
        rest_seconds=sum(_seconds(r) for r in timed if r.stage in ("filter", "augment"))
        / num_documents,
        rest_bytes=(sum(_row_bytes(r, file_bytes) for r in others) + cassette) / num_documents,
        file_bytes=file_bytes,
        fixed_seconds=overhead,
        task_bytes=_mean_size(root / "results") or TASK_BYTES,
        fixed_bytes=_fixed_bytes(root, sum(_row_bytes(ref, file_bytes) for ref in stages)),
        documents_per_shard=max(shard.num_rows for ref in corpus for shard in ref.shards),
    )


def _tool_cost(
    tool: str,
    by_tool: Mapping[tuple[str, str], StageRef],
    file_bytes: float,
    num_documents: int,
) -> ToolCost:
    own = {stage: ref for (name, stage), ref in by_tool.items() if name == tool}
    executed = own.get("execute")
    return ToolCost(
        tool=tool,
        model_seconds=sum(_seconds(own[s]) for s in _MODEL_STAGES if s in own) / num_documents,
        tool_seconds=_seconds(executed) / num_documents if executed else None,
        calls=sum(s.num_rows for s in executed.shards) / num_documents if executed else None,
        kept=total_counts(own["filter"]).get("kept", 0) / num_documents if "filter" in own else 0,
        num_bytes=sum(_row_bytes(r, file_bytes) for r in own.values()) / num_documents,
    )


def _seconds(ref: StageRef) -> float:
    return sum(shard.seconds for shard in ref.shards)


def _row_bytes(ref: StageRef, file_bytes: float) -> float:
    """Bytes of the rows of a stage."""
    return sum(file_size(shard.path) - file_bytes for shard in ref.shards)


def _file_size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _mean_size(folder: Path) -> float:
    sizes = [_file_size(path) for path in folder.glob("*")]
    return sum(sizes) / max(1, len(sizes))


def _fixed_bytes(root: Path, row_bytes: float) -> float:
    """Bytes of the report, and of the index beyond those of its rows."""
    # A new one lies beside one that could not be replaced.
    index = max(_file_size(root / name) for name in ("calls.duckdb", "new-calls.duckdb"))
    return _file_size(root / "report.html") + max(0.0, index - INDEX_SHARE * row_bytes)


def _overhead(shard: ShardRef) -> int:
    """Bytes of a shard's file that are not its rows."""
    found = read_footer(shard.path)
    groups = [found.row_group(k) for k in range(found.num_row_groups)]
    rows = sum(g.column(c).total_compressed_size for g in groups for c in range(g.num_columns))
    return file_size(shard.path) - int(rows)
