"""A tuned model at work: generation, and evaluation on its own."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows.evaluate import Contestants, evaluate_run
from flows.starting.claim import check_evaluation, control_model
from flows.starting.options import Asked
from tasks.inference import TunedModel, describe
from toolformer_core.config.overrides import edit
from toolformer_core.config.pipeline import CorpusConfig, EvaluateConfig, PipelineConfig
from toolformer_core.config.runtime import Runtime
from toolformer_core.decoding.decode import Decoder
from toolformer_core.decoding.events import Event, Generation
from toolformer_core.errors import ConfigError
from toolformer_core.tools.base import NO_DOCUMENT
from toolformer_core.transformers_lm.loading import resolve_model

_TOP_K = "evaluate.decode.call_top_k"


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


def evaluation_config(model: Path, asked: Asked, assignments: Sequence[str]) -> PipelineConfig:
    """What `toolformer evaluate` runs: the model's own tools and decoding, then what is chosen.

    Raises: ConfigError for a setting, a benchmark or an arm that will not do.
    """
    described = describe(model)
    own = PipelineConfig(
        corpus=CorpusConfig(),
        model=described.base,
        tools=described.tools,
        evaluate=EvaluateConfig(decode=described.decode),
    )
    given = {"benchmarks": asked.benchmark, "arms": asked.arms, "control": asked.control}
    values: dict[str, Any] = {f"evaluate.{name}": value for name, value in given.items() if value}
    values["evaluate.limit"] = asked.limit
    # A k that is given takes the place of the model's threshold, unless that is given, too.
    if any(text.partition("=")[0] == _TOP_K for text in assignments):
        values["evaluate.decode.call_threshold"] = None
    config = edit(own, assignments, values)
    check_evaluation(config.evaluate)
    if "base_c" in config.evaluate.arms and config.evaluate.control is None:
        raise ConfigError(
            "evaluate.arms: base_c has no model; make one with toolformer finetune "
            "--without-calls and pass it with --control"
        )
    return config


def evaluate_model(model: Path, config: PipelineConfig, runtime: Runtime) -> list[dict[str, Any]]:
    """The evaluation table of a tuned model; rows as in ArmScore."""
    tuned = control_model(config.model, str(model))  # with the dtype that --set may have changed
    control = config.evaluate.control
    models = Contestants(
        base=resolve_model(config.model, runtime.home, runtime.device),
        tuned=resolve_model(tuned, runtime.home, runtime.device),
        control=resolve_model(control_model(tuned, control), runtime.home, runtime.device)
        if control
        else None,
    )
    return evaluate_run(models, config, runtime)
