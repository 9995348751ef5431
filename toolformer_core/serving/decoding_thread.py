"""One decoding for many clients: a thread that owns it, and what clients ask of that thread.

The rows of all requests decode together (decode.py), and one that comes in joins at the next step.
A client submits rows from any thread; the events of a row are delivered to it in the thread that
decodes. A fault that cannot be laid at one row's door ends the rows of that moment, and decoding
starts afresh for those that come after. One that is not in FAULTS ends the thread: see `is_alive`.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue

from toolformer_core.decoding.decode import Decoding
from toolformer_core.decoding.events import DecodeRequest, Event, Finished
from toolformer_core.errors import OverloadError, ToolformerError

logger = logging.getLogger(__name__)

FAULTS = (ToolformerError, RuntimeError, LookupError, TypeError, ValueError, MemoryError)
"""What may go wrong for some rows without harm to later ones; torch's are RuntimeErrors."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The row ended without an answer."""

    reason: str


Deliver = Callable[[int, Event | Failed], None]
"""Takes the number of the row in its request, and what happened; must neither wait nor raise."""


@dataclass(eq=False, slots=True)
class Submission:
    """The rows of one request; `accepted` ends when they have joined, or with one of FAULTS."""

    requests: Sequence[DecodeRequest]
    deliver: Deliver
    cancel: Callable[[], None] = field(init=False)
    accepted: Future[None] = field(default_factory=Future)
    tickets: dict[int, int] = field(default_factory=dict)  # of rows that decode: their number


class DecodingThread:
    """Drives a Decoding; `open_decoding` makes one, and another after a fault."""

    def __init__(self, open_decoding: Callable[[], Decoding], *, max_open: int) -> None:
        """`max_open`: most rows that decode or wait at a time."""
        self.max_open = max_open
        self._open_decoding = open_decoding
        self._decoding = open_decoding()
        self._asked: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._submissions: dict[int, Submission] = {}  # by ticket
        self._lock = threading.Lock()  # guards the two below
        self._num_open = 0
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="decoding", daemon=True)
        self._thread.start()

    @property
    def num_open(self) -> int:
        """Rows that decode or wait."""
        return self._num_open

    @property
    def is_alive(self) -> bool:
        """Whether rows are taken."""
        return self._thread.is_alive() and not self._is_closed

    def submit(self, requests: Sequence[DecodeRequest], deliver: Deliver) -> Submission:
        """Hand over the rows of one request; each gets its events until Finished or Failed.

        Raises: OverloadError if too many rows wait, or the thread has ended.
        """
        submission = Submission(requests, deliver)
        submission.cancel = partial(self._ask, partial(self._drop, submission))
        with self._lock:
            self._check_open()
            if self._num_open + len(requests) > self.max_open:
                raise OverloadError(
                    f"{self._num_open} texts are decoded or wait, at most {self.max_open} may; try "
                    "again later"
                )
            self._num_open += len(requests)
            self._ask(partial(self._add, submission))
        return submission

    def close(self) -> None:
        """End all rows, the decoding and the thread."""
        with self._lock:
            self._is_closed = True
        self._ask(lambda: None)
        self._thread.join()

    def _check_open(self) -> None:
        if not self.is_alive:
            raise OverloadError("this server is shutting down; try another")

    def _ask(self, what: Callable[[], None]) -> None:
        self._asked.put(what)
        self._decoding.wake.set()  # after put: see _step

    def _run(self) -> None:
        try:
            while not self._is_closed:
                try:
                    self._do_what_was_asked()
                    self._step()
                except FAULTS as error:
                    self._start_afresh(error)
        finally:
            with self._lock:
                self._is_closed = True
            self._fail_all("the server was shut down")
            self._do_what_was_asked()  # refuses what came in before that
            self._close_decoding()

    def _start_afresh(self, fault: BaseException) -> None:
        """End the rows of this moment, and decode those to come with nothing of what failed."""
        logger.error("decoding ended with an error and starts afresh", exc_info=fault)
        self._fail_all(f"{type(fault).__name__}: {fault}")
        self._close_decoding()
        self._decoding = self._open_decoding()

    def _close_decoding(self) -> None:
        try:
            self._decoding.close()
        except FAULTS:  # after another one; what it holds goes with it
            logger.exception("decoding could not be closed")

    def _do_what_was_asked(self) -> None:
        while True:
            try:
                what = self._asked.get_nowait()
            except Empty:
                return
            what()

    def _step(self) -> None:
        """One step of the decoding, or a wait for whatever comes next."""
        events = self._decoding.step()
        for event in events:
            self._tell(event)
        # A step takes back the wake-up of what was asked before it; the queue still tells.
        if not events and self._decoding.is_waiting and self._asked.empty():
            self._decoding.wake.wait()

    def _tell(self, event: Event) -> None:
        submission = self._submissions[event.ticket]
        number = submission.tickets[event.ticket]
        if isinstance(event, Finished):
            self._forget(event.ticket)  # first, so that a client that asks on finds room
        submission.deliver(number, event)

    def _add(self, submission: Submission) -> None:
        """All rows of a request join, or none."""
        if not submission.accepted.set_running_or_notify_cancel():  # the client has gone
            self._count_closed(len(submission.requests))
            return
        refusal: BaseException | None = RuntimeError("decoding has ended")  # unless told better
        try:
            self._check_open()
            for number, request in enumerate(submission.requests):
                ticket = self._decoding.add(request)
                submission.tickets[ticket] = number
                self._submissions[ticket] = submission
            refusal = None
        except FAULTS as error:
            refusal = error
        finally:
            self._settle(submission, refusal)

    def _settle(self, submission: Submission, refusal: BaseException | None) -> None:
        """Tell the client whether its rows have joined; it waits for that, whatever happened."""
        if refusal is None:
            submission.accepted.set_result(None)
            return
        self._count_closed(len(submission.requests) - len(submission.tickets))
        try:
            self._drop(submission)
        finally:
            submission.accepted.set_exception(refusal)

    def _drop(self, submission: Submission) -> None:
        for ticket in list(submission.tickets):
            self._forget(ticket)
            self._decoding.cancel(ticket)

    def _forget(self, ticket: int) -> None:
        del self._submissions.pop(ticket).tickets[ticket]
        self._count_closed(1)

    def _count_closed(self, count: int) -> None:
        with self._lock:
            self._num_open -= count

    def _fail_all(self, reason: str) -> None:
        for ticket, submission in list(self._submissions.items()):
            number = submission.tickets[ticket]
            self._forget(ticket)
            submission.deliver(number, Failed(reason))
