"""Whether a tool is away: many tries in a row without an answer."""

import threading
import time

from toolformer_core.errors import TransientToolError

COOL_DOWN_SECONDS = 20.0


class CircuitBreaker:
    """Stops calling a tool that does not answer, for a while.

    Choice: calls that time out count like outages; one hostile argument may hang a tool, several
    in a row mean that the tool hangs.
    """

    def __init__(self, name: str, max_failures: int) -> None:
        self._name = name
        self._max_failures = max_failures
        self._num_failures = 0
        self._last_failure = ""
        self._closed_again_at = 0.0
        self._lock = threading.Lock()

    def check(self) -> None:
        """Raises: TransientToolError while the tool is not to be called."""
        with self._lock:
            is_open = self._num_failures >= self._max_failures
            if is_open and time.monotonic() < self._closed_again_at:
                raise TransientToolError(self._message())

    def count(self, failure: BaseException | None) -> None:
        """Take note of a call that ended: why it had no answer, or None."""
        with self._lock:
            self._num_failures = 0 if failure is None else self._num_failures + 1
            self._last_failure = f"{type(failure).__name__}: {failure}".rstrip(": ")
            if self._num_failures >= self._max_failures:
                self._closed_again_at = time.monotonic() + COOL_DOWN_SECONDS

    def _message(self) -> str:
        return (
            f"{self._name} did not answer {self._num_failures} calls in a row, the last for "
            f"{self._last_failure}; see to it and run again, finished shards are kept"
        )
