"""Evaluate: some items of a benchmark and one arm in, the answered items out."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from tasks.loaded_models import get_model
from tasks.loaded_tools import ToolRef, get_caller
from tasks.running.policies import Inputs, Location, effect_task, shard_task
from toolformer_core.benchmarks.registry import load_benchmark
from toolformer_core.calling.caller import Caller
from toolformer_core.calling.wrong_caller import WrongCaller
from toolformer_core.config.pipeline import Arm, DecodeConfig, EvaluateConfig, ExecuteConfig
from toolformer_core.controls import pool_of
from toolformer_core.evaluate import STAGE_VERSION, Contestant, evaluate_items, score_arms
from toolformer_core.fingerprint import Reference
from toolformer_core.models import ModelRef
from toolformer_core.records import EvaluatedItem, Outcome
from toolformer_core.shards import ShardRef, read_shard, write_shard


@dataclass(frozen=True, slots=True, kw_only=True)
class Part(Reference):
    """Some neighbouring items of a benchmark; `digest` identifies the benchmark's content."""

    spec: str
    digest: str
    seed: int
    first: int
    last: int

    @property
    def identity(self) -> str:
        """What a cache key takes of it: not where the benchmark's file lies."""
        name = self.spec.partition("=")[0]
        return f"{name}-{self.digest}-{self.first}-{self.last}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ContestantRef(Inputs):
    """What answers: a model and its tools, and how it decodes and calls them."""

    model: ModelRef
    tools: list[ToolRef]
    decode: DecodeConfig
    execute: ExecuteConfig
    context_tokens: int


@shard_task("evaluate", STAGE_VERSION, tag="gpu")
def evaluate_shard(
    part: Part,
    arm: Arm,
    contestant: ContestantRef,
    answered: list[ShardRef],
    location: Location,
) -> ShardRef:
    """The items answered by the arm's model; `answered` are those whose results arm wrong gives."""
    benchmark = load_benchmark(part.spec, part.last, part.seed)
    # No clock: an item without a date must not be answered differently tomorrow.
    callers: dict[str, Caller] = {
        tool.name: get_caller(tool, contestant.execute, location.runtime.tool_calls)
        for tool in contestant.tools
    }
    if arm == "wrong":
        results = _results(answered)
        callers = {
            name: WrongCaller(caller, pool_of(results.get(name, ())))
            for name, caller in callers.items()
        }
    answering = Contestant(
        arm=arm,
        model=contestant.model.digest,
        lm=get_model(contestant.model, location.runtime),
        tools=callers,
        decode=contestant.decode,
        context_tokens=contestant.context_tokens,
    )
    items = evaluate_items(
        answering, replace(benchmark, items=benchmark.items[part.first : part.last])
    )
    name = f"{benchmark.name}-{arm}"
    return write_shard(
        items,
        EvaluatedItem,
        f"{location.folder}/{name}-{part.first:06d}.parquet",
        shard_index=part.first,
        counts={f"{name}:items": len(items)},
    )


def _results(answered: Sequence[ShardRef]) -> dict[str, set[str]]:
    """What each tool has answered in some shards."""
    found: dict[str, set[str]] = {}
    for shard in answered:
        for item in read_shard(shard, EvaluatedItem):
            for call in item.calls:
                if call.outcome is Outcome.OK:
                    found.setdefault(call.tool, set()).add(call.result)
    return found


@effect_task
def score_shards(shards: list[ShardRef], config: EvaluateConfig) -> list[dict[str, Any]]:
    """The evaluation table, one row per benchmark and arm (keys of ArmScore)."""
    by_benchmark: dict[str, list[EvaluatedItem]] = {}
    for shard in shards:
        for item in read_shard(shard, EvaluatedItem):
            by_benchmark.setdefault(item.benchmark, []).append(item)
    table = []
    for spec in config.benchmarks:
        benchmark = load_benchmark(spec, 1, config.seed)
        items = by_benchmark.get(benchmark.name, [])
        items.sort(key=lambda item: config.arms.index(item.arm))
        scores = score_arms(items, benchmark.metric, benchmark.kind, config.seed)
        table += [asdict(score) for score in scores]
    return table
