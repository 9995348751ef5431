"""A tuned model at work: generation, and evaluation on its own."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows.evaluate import evaluate
from tasks.inference import TunedModel, describe
from tasks.prepare import tool_refs
from toolformer_core.benchmarks.registry import load_benchmark
from toolformer_core.config import EvaluateConfig, PipelineConfig, Runtime
from toolformer_core.decode import Decoder
from toolformer_core.decoded import Event, Generation
from toolformer_core.models import resolve_model
from toolformer_core.overrides import edit, parse_config
from toolformer_core.presets import demo
from toolformer_core.tools.base import NO_DOCUMENT


def generate_events(tuned: TunedModel, text: str) -> Iterator[Event]:
    """What happens while the model goes on with a text."""
    return Decoder(tuned.lm, tuned.callers, tuned.decode).stream([text], [NO_DOCUMENT])


def generation_figures(generation: Generation) -> dict[str, Any]:  # Any: JSON
    """A generation with the keys of the design: text (calls written out), calls, and more."""
    return {
        "text": generation.completion,
        "answer": generation.answer,
        "finish_reason": generation.finish_reason,
        "calls": [asdict(call) for call in generation.calls],
    }


def evaluate_model(
    model: Path, chosen: Mapping[str, Any], assignments: Sequence[str], runtime: Runtime
) -> list[dict[str, Any]]:
    """The evaluation table of a tuned model; rows as in ArmScore.

    Raises: ConfigError for an unknown benchmark, arm or setting.
    """
    described = describe(model)
    content = demo().model_dump(mode="json")
    content["evaluate"] = EvaluateConfig(decode=described.decode).model_dump(mode="json")
    content["evaluate"] |= {name: value for name, value in chosen.items() if value is not None}
    config: PipelineConfig = edit(parse_config(content), assignments)
    for spec in config.evaluate.benchmarks:
        load_benchmark(spec, 1, config.evaluate.seed)
    tuned = resolve_model(described.tuned, runtime.home)
    reference = resolve_model(described.base, runtime.home)
    refs = tool_refs(described.tools, runtime)
    _, scores = evaluate(reference, tuned, refs, config.evaluate, config.execute, runtime)
    return scores
