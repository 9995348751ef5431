"""The commands that make a part of a report again, as its reader would type them."""

import json
import shlex
from pathlib import Path
from typing import Any

from toolformer_core.config.pipeline import PipelineConfig

_OPTIONS = {f"evaluate.{name}" for name in ("benchmarks", "arms", "limit", "control")}
"""Settings that `toolformer evaluate` has an option for."""


def calls_command(root: Path, sql: str) -> str:
    """A query of the index of an output folder."""
    quoted = f'"{sql}"' if "'" in sql else shlex.quote(sql)  # our queries hold no $ and no "
    return f"{shlex.join(['toolformer', 'calls', '--out', str(root), '--sql'])} {quoted}"


def funnel_command(root: Path) -> str:
    """The funnel of an output folder."""
    return shlex.join(["toolformer", "funnel", "--out", str(root)])


def evaluate_command(model: str, config: PipelineConfig, out: Path | None) -> str:
    """The evaluation of a tuned model.

    What is left out is as the model's folder says, so tools and decoding are given whole.
    """
    chosen = config.evaluate
    parts = ["toolformer", "evaluate", "--model", model]
    parts += [part for spec in chosen.benchmarks for part in ("--benchmark", spec)]
    parts += ["--arms", ",".join(chosen.arms)]
    if chosen.limit is not None:
        parts += ["--limit", str(chosen.limit)]
    if "base_c" in chosen.arms:
        parts += ["--control", chosen.control or "MODEL_WITHOUT_CALLS"]
    for key, value in _evaluation_settings(config).items():
        parts += ["--set", f"{key}={json.dumps(value)}"]
    return shlex.join([*parts, *(["--out", str(out)] if out else [])])


def _evaluation_settings(config: PipelineConfig) -> dict[str, Any]:  # Any: JSON
    """What no option of the command says, by key: see evaluate_command."""
    found: dict[str, Any] = {}
    for section in ("model", "execute", "evaluate"):
        values = getattr(config, section).model_dump(mode="json", exclude_defaults=True)
        found |= {f"{section}.{name}": value for name, value in values.items()}
    tools = config.tools.model_dump(mode="json", exclude_defaults=True)
    # The kind of a tool is the default of its class.
    own = {"own": config.tools.model_dump(mode="json")["own"]} if "own" in tools else {}
    found["tools"] = {**tools, "enabled": config.tools.enabled, **own}
    found["evaluate.decode"] = config.evaluate.decode.model_dump(mode="json", exclude_defaults=True)
    return {key: value for key, value in found.items() if key not in _OPTIONS}
