"""A calculator that answers when it is let, and raises what it is told to."""

import threading

from toolformer_core.calling.caller import CallAnswer
from toolformer_core.records import Outcome
from toolformer_core.tools.base import NO_DOCUMENT
from toolformer_core.tools.calculator import Calculator


class GatedCaller:
    """Each call waits for `gate`; an argument in `errors` raises, and one in `ungated` passes."""

    tool = Calculator()

    def __init__(self):
        self.gate = threading.Event()
        self.asked = threading.Semaphore(0)  # released by every call that waits
        self.errors = {}
        self.ungated = set()

    def answers(self, calls):
        [(argument, _)] = calls
        if argument in self.errors:
            raise self.errors[argument]
        if argument not in self.ungated:
            self.asked.release()
            assert self.gate.wait(60)
        return [CallAnswer(Outcome.OK, "", self.tool.call(argument, NO_DOCUMENT), 0.0)]
