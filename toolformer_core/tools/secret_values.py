"""Secrets of tools: looked up when a tool is called, and hidden in what comes back.

A setting holds ${env:NAME} or ${prefect:BLOCK} in the place of a secret. A server may echo what it
was sent, so results and messages go through `hide` before anyone sees them.
"""

import json
import os
import re
from collections.abc import Callable, Iterable
from urllib.parse import quote

from toolformer_core.errors import ConfigError

Lookup = Callable[[str, str], str]
"""The secret of a source ("env" or "prefect") and a name; raises ConfigError if there is none."""

HIDDEN = "***"
MIN_HIDDEN_CHARS = 4
"""Choice: hiding shorter values would only garble results."""

_PLACEHOLDER = re.compile(r"\$\{([^{}]*)\}")
_REFERENCE = re.compile(r"(env|prefect):(.+)")


def environment_lookup(source: str, name: str) -> str:
    """The environment variable of that name.

    Raises: ConfigError if it is unset or empty, or for any other source.
    """
    if source != "env":
        raise ConfigError(f"${{{source}:{name}}} is known in Prefect runs only; use ${{env:NAME}}")
    value = os.environ.get(name, "")
    if not value:
        raise ConfigError(f"environment variable {name} is not set; expected a secret of a tool")
    return value


def fill(text: str, lookup: Lookup, encode: Callable[[str], str] = str) -> str:
    """The text with each ${env:NAME} and ${prefect:BLOCK} replaced by its secret, encoded.

    Raises: ConfigError for any other ${...}.
    """

    def secret(placeholder: re.Match[str]) -> str:
        reference = _REFERENCE.fullmatch(placeholder[1])
        if reference is None:
            raise ConfigError(f"{placeholder[0]}: expected ${{env:NAME}} or ${{prefect:BLOCK}}")
        return encode(lookup(reference[1], reference[2]))

    return _PLACEHOLDER.sub(secret, text)


def hide(text: str, values: Iterable[str]) -> str:
    """The text with *** for each of the values, written plainly, in a URL or in JSON."""
    secrets = {value for value in values if len(value) >= MIN_HIDDEN_CHARS}
    forms = {form for v in secrets for form in (v, quote(v, safe=""), json.dumps(v)[1:-1])}
    for form in sorted(forms, key=lambda form: (-len(form), form)):
        text = text.replace(form, HIDDEN)
    return text


class Secrets:
    """A lookup that remembers what it gave, for the time of one call."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._given: list[str] = []

    def __call__(self, source: str, name: str) -> str:
        """The secret; see Lookup."""
        value = self._lookup(source, name)
        self._given.append(value)
        return value

    def hide(self, text: str) -> str:
        """The text without the secrets that were given."""
        return hide(text, self._given)
