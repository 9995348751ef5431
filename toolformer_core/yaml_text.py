"""YAML 1.2 as plain values, and back."""

import io
from collections.abc import Mapping
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from toolformer_core.errors import ConfigError


def parse_yaml(text: str, name: str) -> Any:  # Any: whatever the text says
    """YAML 1.2 as plain values ("on" is a word, only true and false are booleans).

    Raises: ConfigError with the first line of what is wrong.
    """
    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        first = " ".join(str(error).split())
        raise ConfigError(f"{name}: {text[:60]!r} is not YAML ({first[:120]})") from error


def dump_yaml(content: Mapping[str, Any]) -> str:  # Any: settings of every kind
    """Settings as YAML that `parse_yaml` reads back."""
    stream = io.StringIO()
    YAML(pure=True).dump(dict(content), stream)
    return stream.getvalue()
