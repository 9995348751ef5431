"""Canonical form of configurations and references, and its digest.

Two equal settings give the same bytes in every process, whatever the order of their keys.
"""

import dataclasses
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel


class Reference(ABC):
    """What stands for content that lies elsewhere: its identity alone enters fingerprints."""

    __slots__ = ()

    @property
    @abstractmethod
    def identity(self) -> str:
        """Equal for equal content, wherever that lies."""


def canonical(value: Any) -> Any:  # Any: settings are nested JSON-like values of any kind
    """JSON-like form of a setting; of a reference, its identity.

    Raises: TypeError for a set or any other value without a stable order.
    """
    if isinstance(value, Reference):
        return value.identity
    if isinstance(value, BaseModel):
        return canonical(value.model_dump(mode="json"))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: canonical(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): canonical(value[key]) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [canonical(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"no canonical form for {type(value).__name__}: {value!r}")


def fingerprint(*values: Any) -> str:  # Any: see canonical
    """Digest of the canonical form of the values, 16 hexadecimal characters."""
    text = json.dumps(canonical(values), sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
