"""A tuned model's folder, opened for inference: the model, its tools, and how it decodes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tasks.loaded_models import get_model
from tasks.loaded_tools import get_caller
from tasks.output.model_folder import read_model_description
from tasks.prepare import tool_refs
from toolformer_core.calling.caller import Caller, ForgivingCaller
from toolformer_core.config.base import ModelConfig
from toolformer_core.config.decoding import changed_decoding
from toolformer_core.config.pipeline import DecodeConfig, ExecuteConfig
from toolformer_core.config.runtime import Runtime
from toolformer_core.config.tools import ToolsConfig
from toolformer_core.errors import ConfigError
from toolformer_core.transformers_lm.adapter import HFLanguageModel
from toolformer_core.transformers_lm.loading import check_device, resolve_model

# Somebody waits for the answer: a tool that is away is not waited for as in annotation.
_EXECUTE = ExecuteConfig(outage_retries=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedModel:
    """What generates: a model, what answers its calls, and how it decodes."""

    lm: HFLanguageModel
    callers: Mapping[str, Caller]
    decode: DecodeConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a model's folder says of it; `tuned` has the dtype of its base, see model_folder.py."""

    tuned: ModelConfig
    base: ModelConfig
    tools: ToolsConfig
    decode: DecodeConfig


def describe(folder: Path) -> Description:
    """What toolformer.json says; a plain model is its own base and gets the default tools."""
    plain = ModelConfig(name_or_path=str(folder))
    base, tools, decode = read_model_description(folder) or (plain, ToolsConfig(), DecodeConfig())
    tuned = ModelConfig(name_or_path=str(folder), dtype=base.dtype)
    return Description(tuned=tuned, base=base, tools=tools, decode=decode)


def open_tuned_model(
    folder: Path,
    tools: Sequence[str] | None,
    given: Mapping[str, Any],  # Any: fields of DecodeConfig
    runtime: Runtime,
) -> TunedModel:
    """The model of a folder with these tools (none: its own) and decoding settings.

    Raises: ConfigError for a folder, a tool, a device or a setting that will not do.
    """
    described = describe(folder)
    decode = change_decoding(described.decode, given)
    check_device(runtime.device)
    reference = resolve_model(described.tuned, runtime.home, runtime.device)
    enabled = described.tools.enabled if tools is None else tuple(tools)
    refs = tool_refs(described.tools.model_copy(update={"enabled": enabled}), runtime)
    callers = {
        ref.name: get_caller(ref, _EXECUTE, runtime.tool_calls, at_inference=True) for ref in refs
    }
    return TunedModel(
        lm=get_model(reference, runtime),
        callers={name: ForgivingCaller(caller) for name, caller in callers.items()},
        decode=decode,
    )


def change_decoding(config: DecodeConfig, given: Mapping[str, Any]) -> DecodeConfig:
    """The settings with those that are given; see changed_decoding.

    Raises: ConfigError naming the field, its value and what is allowed.
    """
    try:
        return changed_decoding(config, given)
    except ValidationError as error:
        detail = error.errors()[0]
        name = ".".join(str(part) for part in detail["loc"][:1])
        raise ConfigError(f"{name} = {detail['input']!r}: {detail['msg']}") from error
