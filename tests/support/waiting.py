"""Waiting for what tells nobody."""

import time


def wait_until(holds, seconds=60):
    """Return once it holds; fail if it never does."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0.01)
