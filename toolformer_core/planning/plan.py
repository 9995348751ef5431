"""What a run will cost, from what a smaller one cost.

Of a run with D documents of which each gives, on average, for tool t

    s_t  seconds of the model (sampling and scoring)     c_t  calls of the tool
    r_t  seconds of the tool                             b_t  bytes of calls as Parquet

and a corpus that costs b_0 bytes and s_0 seconds (filtering, writing C*) per document besides, in
S = D / documents_per_shard shards, with R the device's speed against the one measured on and P the
size of the model against the one measured with

    device hours   D * sum s_t * P / R / 3600
    tool calls     D * sum c_t
    wall seconds   fixed + (D * (sum s_t * P / R + sum r_t + s_0) + T * TASK_SECONDS) / workers
    disk           D * (b_0 + sum b_t) * (1 + INDEX_SHARE) + files * bytes of an empty one
                   + T * bytes of a task's result + an empty index and the report
    fine-tuning    num_steps * batch_size * tokens per text / (tokens per second) * P
    evaluation     items * sum over arms of P / (items per second)

with T = S * (4 * tools + 1) tasks, and tokens and items per second as the device was measured.
Shards are made so large that the slowest task of one takes TASK_TARGET_SECONDS.

Choice: seconds grow in proportion to the model's parameters, as those of its matrix products do;
a small model on a large device is slower than that, so that a larger one is planned too dear.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from toolformer_core.config.pipeline import PipelineConfig
from toolformer_core.errors import ConfigError
from toolformer_core.planning.costs import (
    CALL_STAGES,
    INDEX_SHARE,
    TASK_SECONDS,
    Figures,
    Measured,
    ToolCost,
    model_seconds,
)

TASK_TARGET_SECONDS = 300.0
"""Choice: minutes, so that orchestration is nothing and little is lost with a machine."""
MAX_DOCUMENTS_PER_SHARD = 10_000
ITEMS_OF_A_BENCHMARK = 1000
"""Choice: where evaluate.limit does not say how many."""

_CALLING_ARMS = ("on", "wrong", "few_shot")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is planned: so many documents, on a device, in so many days.

    `device` None is the one measured on. `num_parameters` None: the model measured with.
    """

    num_documents: int
    config: PipelineConfig
    measured_on: Figures
    device: Figures | None
    num_parameters: float | None
    days: float


def plan(measured: Measured, question: Question) -> dict[str, Any]:  # Any: nested figures
    """The costs; see the module docstring."""
    tools = [tool for tool in measured.tools if tool.tool in question.config.tools.enabled]
    if not tools:
        raise ConfigError(
            f"{measured.source} has none of the tools {', '.join(question.config.tools.enabled)}; "
            f"it has {', '.join(tool.tool for tool in measured.tools)}"
        )
    count, size = question.num_documents, _times_as_large(question)
    speeds = {tool.tool: _speed(tool.tool, question) for tool in tools}
    model = {t.tool: t.model_seconds * size / speeds[t.tool] for t in tools}  # per document
    per_shard = _documents_per_shard(measured, question, max(model.values()))
    shards = math.ceil(count / per_shard)
    tasks = shards * (len(CALL_STAGES) * len(tools) + 1)
    device_seconds = count * sum(model.values())
    tool_seconds = count * sum(tool.tool_seconds or 0.0 for tool in tools)
    other = tool_seconds + count * measured.rest_seconds + TASK_SECONDS * tasks
    workers = max(1, math.ceil((device_seconds + other) / (question.days * 86_400)))
    wall = measured.fixed_seconds + (device_seconds + other) / workers
    return {
        "documents": count,
        "measured": {"from": measured.source, "documents": measured.num_documents},
        "annotate": {
            "device_hours": device_seconds / 3600,
            "tool_hours": tool_seconds / 3600,
            "wall_seconds": wall,
            "tool_calls": _total(count, (tool.calls for tool in tools)),
            "kept": count * sum(tool.kept for tool in tools),
            "by_tool": {
                tool.tool: {
                    "device_hours": count * model[tool.tool] / 3600,
                    "tool_calls": _total(count, [tool.calls]),
                    "kept": count * tool.kept,
                }
                for tool in tools
            },
        },
        "disk_bytes": _disk(measured, tools, count, shards, tasks),
        "finetune": {"device_hours": _finetune_seconds(question, size) / 3600},
        "evaluate": {"device_hours": _evaluate_seconds(question, size) / 3600},
        "recommended": {
            "documents_per_shard": per_shard,
            "shards": shards,
            "tasks": tasks,
            "workers": workers,
        },
    }


def _times_as_large(question: Question) -> float:
    """How much larger the model is than the one measured with."""
    measured = float(question.measured_on["num_parameters"])
    return (question.num_parameters or measured) / measured


def _speed(tool: str, question: Question) -> float:
    """How many times as fast the device annotates; with tools that it lacks, as with the others."""
    if question.device is None:
        return 1.0
    here, there = question.measured_on["annotate"], question.device["annotate"]
    both = [name for name in here if name in there]
    if tool in both:
        return model_seconds(here[tool]) / model_seconds(there[tool])
    if not both:
        raise ConfigError("the two devices were not measured with the same tools; measure again")
    return sum(model_seconds(here[n]) for n in both) / sum(model_seconds(there[n]) for n in both)


def _documents_per_shard(measured: Measured, question: Question, slowest: float) -> int:
    """As the run had it, if the device is the same; else by the slowest tool."""
    if question.device is None and measured.documents_per_shard is not None:
        return measured.documents_per_shard
    wanted = TASK_TARGET_SECONDS / slowest if slowest else math.inf
    return max(1, int(min(wanted, MAX_DOCUMENTS_PER_SHARD, question.num_documents)))


def _total(count: int, rates: Iterable[float | None]) -> float | None:
    """The sum for all documents, None if a rate is not known."""
    found = list(rates)
    known = [rate for rate in found if rate is not None]
    return count * sum(known) if len(known) == len(found) else None


def _disk(
    measured: Measured, tools: Sequence[ToolCost], count: int, shards: int, tasks: int
) -> float:
    calls = count * sum(tool.num_bytes for tool in tools)
    documents = count * measured.rest_bytes
    files = shards * (len(CALL_STAGES) * len(tools) + 2)  # corpus and C*
    return (
        (calls + documents) * (1 + INDEX_SHARE)
        + files * measured.file_bytes
        + tasks * measured.task_bytes
        + measured.fixed_bytes
    )


def _finetune_seconds(question: Question, size: float) -> float:
    config, device = question.config.finetune, question.device or question.measured_on
    tokens = float(device["read"]["tokens_per_document"])
    if config.packing or tokens > config.max_sequence_tokens:
        tokens = config.max_sequence_tokens
    total = config.num_steps * config.batch_size * tokens
    return total / float(device["finetune"]["per_second"]) * size


def _evaluate_seconds(question: Question, size: float) -> float:
    config, device = question.config.evaluate, question.device or question.measured_on
    items = len(config.benchmarks) * (config.limit or ITEMS_OF_A_BENCHMARK)
    rates = (
        float(device["evaluate"]["on" if arm in _CALLING_ARMS else "disabled"]["per_second"])
        for arm in config.arms
    )
    return items * size * sum(1 / rate for rate in rates)
