"""How a command ends: errors become one line and an exit code.

2 says that the input was bad, 1 that it was not: no call was kept, or something around the run was
not there, as a tool, disk space or Prefect's server. None of these leaves a half file that a next
run would take for a whole one.
"""

import errno
from collections.abc import Iterator

from toolformer_core.errors import (
    ToolformerError,
    TransientModelError,
    TransientStorageError,
    TransientToolError,
    ZeroYieldError,
)

_NOT_THE_INPUT = (ZeroYieldError, TransientToolError, TransientModelError, TransientStorageError)

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SAYS_FULL = (
    *("No space left on device", "File too large", "Disk quota exceeded"),  # the system
    "disk is full",  # SQLite
    "iostream error",  # torch, of a file that it cannot write to the end
)
"""In the words of those whose errors bear no number."""
_ANY_PLACE = "the output folder, of TOOLFORMER_HOME or of temporary files"
_CURE = "and run again; what is finished stays"


def ending(error: Exception) -> tuple[str, int] | None:
    """The line and the exit code of an error; None for one that nobody has thought of."""
    place = _full_disk(error)
    if place is not None:
        return f"no space left on the disk of {place}: free some {_CURE}", 1
    if isinstance(error, ToolformerError):
        return str(error), 1 if isinstance(error, _NOT_THE_INPUT) else 2
    if _is_of_prefect(error):
        reason = " ".join(str(error).split()) or type(error).__name__
        cure = f"start it, or unset PREFECT_API_URL, {_CURE}"
        return f"Prefect's server does not answer ({reason}): {cure}", 1
    return None


def _full_disk(error: Exception) -> str | None:
    """Where space was wanting, if it was."""
    for one in _chain(error):
        if getattr(one, "errno", None) in _FULL or any(text in str(one) for text in _SAYS_FULL):
            return getattr(one, "filename", None) or _ANY_PLACE
    return None


def _is_of_prefect(error: Exception) -> bool:
    """Whether a request failed that was not one of ours, whose errors are ours."""
    # By name: httpx is not loaded where nothing has used it. Limits wrap the error: their client
    # is a new one, and Prefect has only those wait for a server that have reached it before.
    kinds = (kind for one in _chain(error) for kind in type(one).__mro__)
    names = {f"{kind.__module__}.{kind.__name__}" for kind in kinds}
    return "httpx.TransportError" in names or str(error).startswith("Failed to reach API at ")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it came of."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
