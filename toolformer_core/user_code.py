"""Functions of the user's own, named MODULE:FUNCTION in a setting."""

import functools
import importlib
import inspect
from collections.abc import Callable
from typing import Any

from toolformer_core.errors import ConfigError
from toolformer_core.records import digest

_BROKEN_MODULE = (ImportError, AttributeError, NameError, SyntaxError, TypeError, ValueError)
"""What comes of importing a module that is not there or does not work."""


@functools.lru_cache(maxsize=64)
def load_function(
    spec: str, setting: str, expected: str = "MODULE:FUNCTION"
) -> Callable[..., Any]:  # Any: the user's
    """The function that a setting names; `expected` says what else it may hold.

    Raises: ConfigError if there is none.
    """
    module, _, name = spec.partition(":")
    if not module or not name:
        raise ConfigError(f"{setting} {spec!r}: expected {expected}")
    try:
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except _BROKEN_MODULE as error:
        raise ConfigError(f"{setting} {spec!r}: {error}; expected {expected}") from error
    if not callable(function):
        raise ConfigError(f"{setting} {spec!r} is not a function; expected {expected}")
    return function


def source_digest(function: Callable[..., Any]) -> str:  # Any: the user's
    """Digest of the source of the function's module; empty where there is none to read."""
    module = inspect.getmodule(function)
    try:
        return digest(inspect.getsource(module)) if module else ""
    except OSError:  # it has no source: compiled, or made up while running
        return ""
