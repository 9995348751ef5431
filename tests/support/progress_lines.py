"""The lines that tell how far a long loop has come, as they come."""

import logging
from logging.handlers import QueueHandler
from queue import SimpleQueue

from toolformer_core import progress


def listen(monkeypatch):
    """A queue of them; one comes each hundredth of a second."""
    lines = SimpleQueue()
    handler = QueueHandler(lines)
    handler.prepare = logging.LogRecord.getMessage
    monkeypatch.setattr(progress, "_LINE_EVERY_SECONDS", 0.01)
    monkeypatch.setattr(progress.logger, "handlers", [handler])
    monkeypatch.setattr(progress.logger, "level", logging.INFO)
    return lines


def first_other(lines, line):
    """The first one that is not this."""
    while (found := lines.get(timeout=60)) == line:
        pass
    return found
