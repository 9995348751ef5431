"""When a tuned model had best start a call, for the command line; no server is needed."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from tasks.inference import describe
from tasks.loaded_models import get_model
from tasks.loaded_tools import get_caller
from tasks.output.model_folder import MODEL_FILE, write_decoding
from tasks.prepare import tool_refs
from toolformer_core.benchmarks.registry import load_benchmark
from toolformer_core.calibration.calibrate_calls import (
    DecodeCalibration,
    RuleScore,
    calibrate_decode,
)
from toolformer_core.config.pipeline import ExecuteConfig
from toolformer_core.config.runtime import Runtime
from toolformer_core.errors import ConfigError
from toolformer_core.transformers_lm.loading import check_device, resolve_model

_SEED = 500_000
"""Of the generated sets: its items are none of those that evaluation takes with a usual seed."""


def calibrate_calls(
    model: Path,
    benchmark: str,
    *,
    limit: int | None,
    target_call_rate: float | None,
    writes: bool,
    runtime: Runtime,
) -> dict[str, Any]:  # Any: nested figures
    """The figures of every rule and the recommended one; `writes` puts it into the model's folder.

    Raises: ConfigError for a folder without toolformer.json, or an unknown benchmark.
    """
    if not (model / MODEL_FILE).is_file():
        raise ConfigError(
            f"model {model}: no {MODEL_FILE}; expected the folder of a tuned model, as "
            "toolformer finetune leaves it"
        )
    check_device(runtime.device)
    items = load_benchmark(benchmark, limit, _SEED)
    if items.kind != "answer":
        raise ConfigError(
            f"benchmark {items.name} has no right answers; calibrate-calls needs one that has, as "
            "dateset"
        )
    described = describe(model)
    reference = resolve_model(described.tuned, runtime.home, runtime.device)
    found = calibrate_decode(
        get_model(reference, runtime),
        items,
        # No clock, as in evaluation: an item is answered alike tomorrow.
        {
            tool.name: get_caller(tool, ExecuteConfig(), runtime.tool_calls)
            for tool in tool_refs(described.tools, runtime)
            if tool.name not in items.barred_tools
        },
        described.decode,
        target_call_rate,
    )
    chosen = found.recommended
    if writes and chosen is not None and chosen.rule is not None:
        origin = f"calibrate-calls on {found.benchmark}"
        write_decoding(model, chosen.rule.applied(described.decode), origin)
    return _report(found)


def _report(found: DecodeCalibration) -> dict[str, Any]:  # Any: as above
    """The figures as JSON has them: one row per rule."""

    def row(score: RuleScore) -> dict[str, Any]:
        figures = asdict(score)
        rule = figures.pop("rule") or {"setting": "call_top_k", "value": 0}
        return {**rule, **figures}

    return {
        "benchmark": found.benchmark,
        "metric": found.metric,
        "rules": [row(score) for score in found.scores],
        "recommended": row(found.recommended) if found.recommended else None,
    }
