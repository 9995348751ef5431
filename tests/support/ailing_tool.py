"""A function that answers half of its calls, and ails on the other half as FAULT says.

For `python -m tests.bench faults`. Which half: by the argument, so that every run has the same.
"""

import hashlib
import os
import time

from tests.support.faulty_tool import do

NUM_SLOW_SECONDS = 2


def note(text: str) -> str:
    """Tells a number that belongs to a text."""
    digest = hashlib.sha256(text.encode()).digest()
    if digest[0] % 2:
        return str(digest[1])
    fault = os.environ["FAULT"]
    if fault == "slow":
        time.sleep(NUM_SLOW_SECONDS)
        return str(digest[1])
    return do(fault)
