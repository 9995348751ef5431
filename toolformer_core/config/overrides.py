"""Settings from outside and back: nested keys, YAML, and `a.b=value` edits of a configuration."""

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from toolformer_core.config.pipeline import PipelineConfig
from toolformer_core.errors import ConfigError
from toolformer_core.yaml_text import parse_yaml


def edit(
    config: PipelineConfig,
    assignments: Sequence[str],
    values: Mapping[str, Any] = MappingProxyType({}),  # Any: settings of every kind
) -> PipelineConfig:
    """A copy of the configuration with some values by dotted key, then with `a.b=value` edits.

    What stands behind "=" is read as YAML.

    Raises: ConfigError naming the key, the value and what is allowed.
    """
    if not assignments and not values:
        return config
    content: dict[str, Any] = config.model_dump(mode="json")  # Any: nested settings
    for key, value in values.items():
        _assign(content, key.split("."), value, key)
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator:
            raise ConfigError(f"--set {assignment!r}: expected key=value, as in sample.seed=1")
        _assign(content, key.split("."), parse_yaml(text, f"--set {key}"), key)
    edited = parse_config(content)
    for assignment in assignments:
        _check_tool_key(assignment.partition("=")[0].split("."), content, edited.tools.enabled)
    return edited


def _check_tool_key(path: list[str], content: Any, enabled: Sequence[str]) -> None:
    """Refuse a per-tool value for a tool that is not there: it would change nothing."""
    for part in path[:-1]:
        content = content[part] if isinstance(content, dict) else None
    if isinstance(content, dict) and "default" in content and path[-1] not in ("default", *enabled):
        raise ConfigError(
            f"unknown setting {'.'.join(path)!r}: no tool {path[-1]!r} is enabled; enabled: "
            f"{', '.join(enabled)}"
        )


def _assign(content: dict[str, Any], path: list[str], value: Any, key: str) -> None:
    """Set one nested key; a per-tool number turns into a table when a tool is named."""
    for depth, part in enumerate(path[:-1]):
        if not isinstance(content, dict) or part not in content:
            raise ConfigError(_unknown_key(".".join(path[: depth + 1]), content))
        if not isinstance(content[part], dict) and depth == len(path) - 2:
            content[part] = {"default": content[part]}
        content = content[part]
    is_table = "default" in content
    if not isinstance(content, dict) or (path[-1] not in content and not is_table):
        raise ConfigError(_unknown_key(key, content))
    content[path[-1]] = value


def _unknown_key(key: str, content: Any) -> str:  # Any: nested settings
    allowed = ", ".join(sorted(content)) if isinstance(content, dict) else "no key below it"
    return f"unknown setting {key!r}; known here: {allowed}"


def parse_config(content: Mapping[str, Any]) -> PipelineConfig:  # Any: read from YAML
    """A pipeline configuration from nested keys.

    Raises: ConfigError naming the first bad key, its value and what is allowed.
    """
    try:
        return PipelineConfig.model_validate(content)
    except ValidationError as error:
        # Of a per-tool setting's two readings, the one that reached a plain value is meant.
        errors = sorted(error.errors(), key=lambda e: isinstance(e["input"], dict | list))
        where, allowed = _key_path(errors[0]["loc"], content), errors[0]["msg"]
        if errors[0]["type"] == "extra_forbidden":
            raise ConfigError(f"unknown setting {where!r}") from error
        shown = f"{where} = {errors[0]['input']!r}: " if where else ""
        raise ConfigError(f"{shown}{allowed.removeprefix('Value error, ')}") from error


def _key_path(location: Sequence[int | str], content: Any) -> str:  # Any: nested settings
    """The dotted key of an error, without the names that pydantic gives to alternatives."""
    parts = []
    for number, part in enumerate(location):
        is_last_missing = number == len(location) - 1 and "[" not in str(part)
        if isinstance(content, dict) and (part in content or is_last_missing):
            content = content.get(part)
        elif isinstance(content, list | tuple) and isinstance(part, int):
            content = content[part]
        else:
            continue
        parts.append(str(part))
    return ".".join(parts)


def flat_settings(config: PipelineConfig) -> dict[str, str]:
    """Every setting as `a.b` to text; values other than text are spelled as JSON."""
    flat: dict[str, str] = {}
    pending: list[tuple[str, Any]] = [("", config.model_dump(mode="json"))]  # Any: nested JSON
    while pending:
        prefix, value = pending.pop()
        if isinstance(value, dict):
            pending += [(f"{prefix}.{key}" if prefix else key, value[key]) for key in value]
        else:
            flat[prefix] = value if isinstance(value, str) else json.dumps(value)
    return dict(sorted(flat.items()))
