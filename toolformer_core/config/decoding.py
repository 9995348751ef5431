"""Decoding settings, changed by what a request or an option gives."""

from collections.abc import Mapping
from typing import Any

from toolformer_core.config.pipeline import DecodeConfig


def changed_decoding(
    config: DecodeConfig,
    given: Mapping[str, Any],  # Any: fields of DecodeConfig
) -> DecodeConfig:
    """The settings with those that are given, None being "not given".

    A call_top_k that is given takes the place of a threshold that is not.
    Raises: pydantic's ValidationError for a value out of range.
    """
    changes = {name: value for name, value in given.items() if value is not None}
    if "call_top_k" in changes:
        changes = {"call_threshold": None, **changes}
    return DecodeConfig.model_validate({**config.model_dump(), **changes})
