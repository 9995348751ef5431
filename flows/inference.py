"""A tuned model at work: generation, and evaluation on its own."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows.evaluate import evaluate
from tasks.prepare import tool_refs
from tasks.publish import read_model_description
from tasks.resources import get_caller, get_model
from toolformer_core.benchmarks.registry import load_benchmark
from toolformer_core.config import (
    DecodeConfig,
    EvaluateConfig,
    ExecuteConfig,
    PipelineConfig,
    Runtime,
)
from toolformer_core.config_tools import ToolsConfig
from toolformer_core.decode import Decoder
from toolformer_core.models import resolve_model
from toolformer_core.overrides import edit, parse_config
from toolformer_core.presets import demo
from toolformer_core.settings import ModelConfig
from toolformer_core.tools.base import NO_DOCUMENT


def generate_text(
    model: Path,
    text: str,
    *,
    decode: Mapping[str, int | None],
    tools: Sequence[str] | None,
    runtime: Runtime,
) -> dict[str, Any]:
    """The continuation and its calls; keys as in the design: text, calls."""
    base, known_tools, known_decode = _description(model)
    changed = {name: value for name, value in decode.items() if value is not None}
    enabled = tuple(tools) if tools is not None else known_tools.enabled
    refs = tool_refs(known_tools.model_copy(update={"enabled": enabled}), runtime)
    reference = resolve_model(_tuned(model, base), runtime.home)
    decoder = Decoder(
        get_model(reference, runtime.device, runtime.token_budget),
        {
            ref.name: get_caller(ref, ExecuteConfig(), runtime.tool_calls, at_inference=True)
            for ref in refs
        },
        known_decode.model_copy(update=changed),
    )
    generation = decoder.generate([text], [NO_DOCUMENT])[0]
    return {"text": generation.completion, "calls": [asdict(call) for call in generation.calls]}


def evaluate_model(
    model: Path, chosen: Mapping[str, Any], assignments: Sequence[str], runtime: Runtime
) -> list[dict[str, Any]]:
    """The evaluation table of a tuned model; rows as in ArmScore.

    Raises: ConfigError for an unknown benchmark, arm or setting.
    """
    base, tools, decode = _description(model)
    content = demo().model_dump(mode="json")
    content["evaluate"] = EvaluateConfig(decode=decode).model_dump(mode="json")
    content["evaluate"] |= {name: value for name, value in chosen.items() if value is not None}
    config: PipelineConfig = edit(parse_config(content), assignments)
    for spec in config.evaluate.benchmarks:
        load_benchmark(spec, 1, config.evaluate.seed)
    tuned = resolve_model(_tuned(model, base), runtime.home)
    reference = resolve_model(base, runtime.home)
    refs = tool_refs(tools, runtime)
    _, scores = evaluate(reference, tuned, refs, config.evaluate, config.execute, runtime)
    return scores


def _description(model: Path) -> tuple[ModelConfig, ToolsConfig, DecodeConfig]:
    """What toolformer.json says; a plain model is its own base and gets the default tools."""
    plain = ModelConfig(name_or_path=str(model))
    return read_model_description(model) or (plain, ToolsConfig(), DecodeConfig())


def _tuned(model: Path, base: ModelConfig) -> ModelConfig:
    """The tuned model in the arithmetic of its base."""
    return ModelConfig(name_or_path=str(model), dtype=base.dtype)
