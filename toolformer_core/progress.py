"""How far a long loop has come: tqdm's bar on a terminal, elsewhere a line in the log each minute.

sample-Calculator    3 of 21 shards, about 6 min left
"""

import io
import logging
import math
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

logger = logging.getLogger(__name__)

_LINE_EVERY_SECONDS = 60


@contextmanager
def progress(
    name: str, *, unit: str, total: int, is_off: bool = False
) -> Iterator["tqdm[Any]"]:  # Any: nothing is iterated
    """A tqdm to update; what it counts is shown until the block ends."""
    if is_off or sys.stderr.isatty():
        with tqdm(desc=name, unit=unit, total=total, disable=is_off) as bar:
            yield bar
        return
    ended = threading.Event()
    # Only counts: it would write its bars one behind the other.
    options: dict[str, Any] = {"file": io.StringIO(), "mininterval": math.inf}  # Any: tqdm's
    with tqdm(desc=name, unit=unit, total=total, **options) as bar:
        # From a thread, so that a line comes even while no item ends.
        teller = threading.Thread(target=_tell, args=(bar, ended), name="progress", daemon=True)
        teller.start()
        try:
            yield bar
        finally:
            ended.set()


def tracked(items: Sequence[Item], name: str, *, unit: str) -> Iterator[Item]:
    """The items, of which those before the present one are shown as done."""
    with progress(name, unit=unit, total=len(items)) as bar:
        for item in items:
            yield item
            bar.update()


def progress_line(bar: "tqdm[Any]") -> str:  # Any: as above
    """What is done, and the time for what is left at the pace so far."""
    now = bar.format_dict
    line = f"{bar.desc:20} {now['n']} of {now['total']} {now['unit']}s"
    done_here = now["n"] - now["initial"]
    if not done_here:
        return line
    minutes = math.ceil(now["elapsed"] / done_here * (now["total"] - now["n"]) / 60)
    left = f"{minutes} min" if minutes < 100 else f"{minutes / 60:.1f} h"
    return f"{line}, about {left} left"


def _tell(bar: "tqdm[Any]", ended: threading.Event) -> None:  # Any: as above
    while not ended.wait(_LINE_EVERY_SECONDS):
        logger.info("%s", progress_line(bar))


def show_lines(*others: str) -> None:
    """Let these lines, and those of other loggers, reach standard error with the time of day."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    for name in (__name__, *others):
        shown = logging.getLogger(name)
        shown.handlers = [handler]  # in place of one that an earlier command left
        shown.setLevel(logging.INFO)
        shown.propagate = False
