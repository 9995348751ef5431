"""JSON files of ours: whole or not there, and a broken one named with its cure."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from toolformer_core.errors import ConfigError
from toolformer_core.storage import temporary_path


def read_json(path: Path, cure: str) -> dict[str, Any]:  # Any: settings of every kind
    """The object in a JSON file of ours.

    Raises: ConfigError with the cure if it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); {cure}") from error
    with _whole_file(path, cure):
        return dict(json.loads(text))


def read_origin(path: Path, key: str) -> Any:  # Any: folders, or a path
    """What a manifest or toolformer.json says of what it was made from.

    Raises: ConfigError if it cannot be read, or an older version wrote it.
    """
    content = read_json(path, "run again, which writes it")
    if key not in content:
        raise ConfigError(
            f"{path} does not say what it was made from (no {key!r}): an older version wrote it; "
            "run again, which takes all shards from the cache and writes it anew; a manifest that "
            "is still the same then may be deleted"
        )
    return content[key]


@contextmanager
def _whole_file(path: Path, cure: str) -> Iterator[None]:
    """For reading a file of ours; what it lacks becomes a line with the cure."""
    try:
        yield
    except (ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} is broken ({type(error).__name__}: {reason}); {cure}") from error


def write_whole(path: Path, text: str) -> None:
    """Write a file that is there as a whole or not at all."""
    temporary = temporary_path(path)
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
