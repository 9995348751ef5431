"""Evaluate: every benchmark under every arm, in parts."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import flow

from flows._hooks import close_failed
from flows._stage import map_stage
from flows.starting.claim import control_model
from tasks.evaluate import ContestantRef, Part, evaluate_shard, score_shards
from tasks.loaded_tools import ToolRef
from tasks.output.manifests import load_stage
from tasks.prepare import prepare_tools
from tasks.report.artifacts import describe_run, index_run, write_evaluation
from tasks.running.policies import MODEL_RUNNER
from tasks.tracking.runs import finish_tracking, start_tracking, track_scores, track_stage
from toolformer_core.benchmarks.registry import benchmark_digest, load_benchmark
from toolformer_core.config.base import ModelConfig
from toolformer_core.config.finetune import FinetuneConfig
from toolformer_core.config.pipeline import (
    Arm,
    DecodeConfig,
    EvaluateConfig,
    ExecuteConfig,
    PipelineConfig,
)
from toolformer_core.config.runtime import Runtime
from toolformer_core.evaluate import CALLING_ARMS, arm_decoding, takes_part
from toolformer_core.finetune import FinetuneResult
from toolformer_core.models import ModelRef

_SECTIONS = ("model", "tools", "execute", "evaluate")  # of the settings, those that matter here

Cell = dict[str, Any]  # Any: arguments of evaluate_shard


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestants:
    """The models that are compared: M, M*, and M fine-tuned on C without calls."""

    base: ModelRef
    tuned: ModelRef
    control: ModelRef | None = None

    def of(self, arm: Arm) -> ModelRef:
        """The model of an arm."""
        if arm == "base_c":
            assert self.control is not None, "an arm without a model is refused before"
            return self.control
        return self.base if arm in ("base", "few_shot") else self.tuned


def control_contestant(
    config: PipelineConfig,
    prepare: Callable[[ModelConfig], ModelRef],
    train: Callable[[FinetuneConfig], FinetuneResult],
) -> ModelRef | None:
    """The model of arm base_c, if that takes part: the one named, else M fine-tuned on C alone."""
    if "base_c" not in config.evaluate.arms:
        return None
    if config.evaluate.control is not None:
        return prepare(control_model(config.model, config.evaluate.control))
    return train(config.finetune.model_copy(update={"without_calls": True})).model


@flow(name="evaluate", flow_run_name="evaluate", task_runner=MODEL_RUNNER)
def evaluate(
    models: Contestants,
    tools: list[ToolRef],
    config: EvaluateConfig,
    execute: ExecuteConfig,
    runtime: Runtime,
) -> tuple[list[Path], list[dict[str, Any]]]:
    """The manifests of answered items, and the evaluation table."""
    cells = list(_cells(models, tools, config, execute))
    plain = [cell for cell in cells if cell["arm"] != "wrong"]
    wrong = [cell for cell in cells if cell["arm"] == "wrong"]
    manifests = [_map("all", plain, runtime)]
    if wrong:
        done = load_stage(manifests[0]).shards
        for cell in wrong:
            cell["answered"] = [
                shard
                for other, shard in zip(plain, done, strict=True)
                if other["arm"] == "on" and other["part"].spec == cell["part"].spec
            ]
        manifests.append(_map("wrong", wrong, runtime))
    shards = [shard for manifest in manifests for shard in load_stage(manifest).shards]
    return manifests, score_shards(shards, config)


def _cells(
    models: Contestants, tools: Sequence[ToolRef], config: EvaluateConfig, execute: ExecuteConfig
) -> Iterator[Cell]:
    """The arguments of every task: a cell depends on no other, and on no setting it has no use for.

    Perplexity calls nothing, and arms without tools do not change with them.
    """
    for spec in config.benchmarks:
        benchmark = load_benchmark(spec, config.limit, config.seed)
        reads = benchmark.kind == "perplexity"
        ends = {"max_words": benchmark.max_words, "stop": (*config.decode.stop, *benchmark.stop)}
        decode = config.decode.model_copy(update=ends)
        digest, num_items = benchmark_digest(spec, config.seed), len(benchmark.items)
        allowed = [tool for tool in tools if tool.name not in benchmark.barred_tools]
        for arm in (arm for arm in config.arms if takes_part(arm, benchmark.kind)):
            calls = arm in CALLING_ARMS
            for first in range(0, num_items, config.items_per_shard):
                last = min(first + config.items_per_shard, num_items)
                yield {
                    "part": Part(
                        spec=spec, digest=digest, seed=config.seed, first=first, last=last
                    ),
                    "arm": arm,
                    "contestant": ContestantRef(
                        model=models.of(arm),
                        tools=allowed if calls else [],
                        decode=DecodeConfig()
                        if reads
                        else arm_decoding(arm, decode, config.few_shot_top_k),
                        execute=execute if calls else ExecuteConfig(),
                        context_tokens=config.context_tokens if reads else 0,
                    ),
                    "answered": [],
                }


def _map(name: str, cells: Sequence[Cell], runtime: Runtime) -> Path:
    return map_stage("evaluate", name, evaluate_shard, cells, {}, runtime)


@flow(name="evaluate-run", on_failure=[close_failed], on_crashed=[close_failed])
def evaluate_run(
    models: Contestants, config: PipelineConfig, runtime: Runtime
) -> list[dict[str, Any]]:
    """The evaluation table of models that are there already, tracked and reported."""
    tracking = start_tracking(config, runtime, _SECTIONS)
    tools = prepare_tools(config.tools, runtime)
    answered, scores = evaluate(models, tools, config.evaluate, config.execute, runtime)
    track_stage(tracking, "evaluate", answered, runtime)
    track_scores(tracking, scores, runtime)
    index = index_run(answered, config, runtime.root)
    links = {"tuned model": models.tuned.path, **describe_run(config, runtime, tracking)}
    report = write_evaluation(index, config, scores, links, runtime.root)
    finish_tracking(tracking, report, runtime)
    return scores
