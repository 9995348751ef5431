"""Inference with calls (paper, section 2 "Inference" and section 4.2).

A call starts whenever <API> is among the call_top_k most likely tokens (or likelier than
call_threshold) and fewer than max_calls have been started, unless no text of C* could hold a call
there: inside a word or number, or between a sign and its number. At the arrow the tool is called in
a thread of its own, while the other rows go on; its result and the closing bracket are then fed to
the row on the same cache in one pass, as if the model had written them.

Departs: a call that fails, or that cannot be one, is taken back: the row goes on from where the
call started with the token that the model would have chosen there (the fallback of ToolkenGPT,
arXiv 2305.11554). The paper does not say what happens. It counts as a call, so a tool that is down
is not tried again and again.

Rows come and go while others decode (`Decoding`); what a row gives depends on no other.
"""

import itertools
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

import torch

from toolformer_core.calling.caller import Caller
from toolformer_core.config.pipeline import DecodeConfig
from toolformer_core.decoding.choice import Choice, choose
from toolformer_core.decoding.events import (
    CallFinished,
    CallStarted,
    DecodeRequest,
    Event,
    Finished,
    Generation,
    TextPiece,
)
from toolformer_core.decoding.row import Row
from toolformer_core.errors import ConfigError, NotationError
from toolformer_core.notation import ARROW, END, ParsedCall, parse_call, render_call_with_result
from toolformer_core.records import Outcome
from toolformer_core.tools.base import CallContext
from toolformer_core.transformers_lm.model import HFModel
from toolformer_core.transformers_lm.rows import open_rows

_MAX_CALLS = 32  # of one tool at a time
_INSTANT_SECONDS = 0.001
_PREFIX = -1  # the row that holds the prefix; tickets count from 0


class Decoding:
    """Rows that decode together; others join and leave at any step. For one thread."""

    def __init__(
        self,
        lm: HFModel,
        tools: Mapping[str, Caller],
        *,
        max_rows: int | None = None,
        forbids_calls: bool = True,
        prefix: str = "",
    ) -> None:
        """`max_rows` None: as many as fit the model's token budget with all they may grow to.

        `forbids_calls` False leaves a base model free to write brackets as text. `prefix` is read
        once for all documents that begin with it.
        """
        self.wake = threading.Event()
        """Set when a tool has answered: wait for it when `step` gives nothing."""
        self._lm = lm
        self._tools = tools
        self._max_rows = max_rows
        self._forbids_calls = forbids_calls
        self._rows = open_rows(lm)
        self._live: dict[int, Row] = {}
        self._waiting: deque[Row] = deque()
        self._num_tickets = 0
        self._longest = 1  # tokens of a row, with all that it may generate
        self._prefix_ids = [lm.document_start_id, *lm.encode(prefix)] if prefix else []
        self._has_prefix = False
        self._end_ids = {lm.tokenizer.eos_token_id, lm.document_start_id}
        # One pool per tool: a tool that hangs keeps no other waiting.
        self._threads = {
            name: ThreadPoolExecutor(max_rows or _MAX_CALLS, thread_name_prefix=f"decoding-{name}")
            for name in tools
        }

    @property
    def is_idle(self) -> bool:
        """Whether all rows have finished."""
        return not self._live and not self._waiting

    @property
    def is_waiting(self) -> bool:
        """Whether nothing can go on before a tool answers or a row is added."""
        can_join = self._waiting and len(self._live) < self._room
        return not can_join and all(row.answering for row in self._live.values())

    @property
    def _room(self) -> int:
        """Most rows at a time."""
        return self._max_rows or max(1, self._lm.token_budget // self._longest)

    def add(self, request: DecodeRequest) -> int:
        """Let a row join as soon as there is room; its ticket.

        Raises: ConfigError for a prompt that is too long or no text, or an unknown forced tool.
        """
        lm, config = self._lm, request.config
        try:
            request.prompt.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(f"prompt is no Unicode text: {error}; mend its encoding") from error
        start = [lm.document_start_id] if request.starts_document else []
        prompt_ids = [*start, *lm.encode(request.prompt)] or [lm.document_start_id]
        if len(prompt_ids) >= lm.context_tokens:
            raise ConfigError(
                f"prompt of {len(prompt_ids)} tokens; the model takes {lm.context_tokens}, with "
                "what it generates; shorten the prompt"
            )
        if config.forced_tool is not None and config.forced_tool not in self._tools:
            known = ", ".join(self._tools) or "none"
            raise ConfigError(
                f"forced_tool {config.forced_tool!r}: no such tool here; known: {known}"
            )
        ticket = self._num_tickets
        self._num_tickets += 1
        num_own = len(prompt_ids) - self._num_shared(prompt_ids)
        self._longest = max(self._longest, num_own + config.max_new_tokens)
        self._waiting.append(Row(ticket, request, prompt_ids, lm.tokenizer))
        return ticket

    def cancel(self, ticket: int) -> None:
        """Let a row go; what its tool still answers is not heard."""
        row = self._live.pop(ticket, None)
        if row is not None:
            self._rows.leave(ticket)
            if row.answering is not None:
                row.answering.cancel()
        self._waiting = deque(row for row in self._waiting if row.ticket != ticket)

    def close(self) -> None:
        """Let all rows go."""
        for ticket in [*self._live]:
            self.cancel(ticket)
        self._waiting.clear()
        for threads in self._threads.values():
            threads.shutdown(wait=False, cancel_futures=True)

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """One forward pass for all rows that can go on, and what happened.

        Raises: TransientToolError for an outage of a tool.
        """
        self.wake.clear()
        events = [event for row in [*self._live.values()] for event in self._hear(row)]
        while self._waiting and len(self._live) < self._room:
            row = self._waiting.popleft()
            self._live[row.ticket] = row
            self._begin_with_prefix(row)
        fed = self._next_feed()
        if fed:
            logits_BV = self._rows.feed(fed).float()  # in bfloat16 the search for the best is slow
            rows = [self._live[ticket] for ticket in fed]
            for row in rows:
                del row.pending[: len(fed[row.ticket])]
            events += self._go_on(rows, logits_BV)
        return events

    def _num_shared(self, prompt_ids: Sequence[int]) -> int:
        """How many tokens of a prompt are the prefix's; one is left to be fed."""
        pairs = zip(self._prefix_ids, prompt_ids[:-1], strict=False)
        return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))

    def _begin_with_prefix(self, row: Row) -> None:
        """Take what the row shares with the prefix from the row that has read it."""
        num_shared = self._num_shared(row.pending)
        if num_shared:
            if not self._has_prefix:
                self._rows.feed({_PREFIX: self._prefix_ids})
                self._has_prefix = True
            self._rows.fork(row.ticket, _PREFIX, num_shared)
            del row.pending[:num_shared]

    def _next_feed(self) -> dict[int, list[int]]:
        """Tokens by ticket, within the budget of one pass; those that wait for one token first."""
        able = [row for row in self._live.values() if row.answering is None]
        fed, room = dict[int, list[int]](), self._lm.token_budget
        for row in sorted(able, key=lambda row: len(row.pending)):
            if room:
                fed[row.ticket] = row.pending[:room]
                room -= len(fed[row.ticket])
        return fed

    def _go_on(self, rows: Sequence[Row], logits_BV: torch.Tensor) -> list[Event]:
        """Give the next token to every row that has been fed all it had."""
        ready = [k for k, row in enumerate(rows) if not row.pending]
        if not ready:
            return []
        if len(ready) < len(rows):
            rows, logits_BV = [rows[k] for k in ready], logits_BV[ready]
        can_call = bool(self._tools)
        forbids = self._forbids_calls or can_call
        choices = choose(logits_BV, rows, self._lm.start_ids, can_call=can_call, forbids=forbids)
        events = [
            e for row, choice in zip(rows, choices, strict=True) for e in self._to(row, choice)
        ]
        # A tool that answers at once costs its row no pass.
        asked = [row.answering for row in rows if row.answering is not None]
        if asked:
            wait(asked, _INSTANT_SECONDS)
        return events

    def _to(self, row: Row, choice: Choice) -> list[Event]:
        """Take a row one token further."""
        if row.call is not None:
            return self._write_call(row, choice.plain)
        if choice.start is None or not row.is_place(choice.plain):
            return self._write_text(row, choice.plain)
        name = row.request.config.forced_tool
        forced = self._lm.encode(f"{name}(") if name is not None else []
        if row.num_tokens + 1 + len(forced) >= self._lm.context_tokens:
            return self._write_text(row, choice.plain)
        row.open_call(choice.plain, [choice.start, *forced])
        return []

    def _write_text(self, row: Row, token: int) -> list[Event]:
        if token in self._end_ids:
            row.finish_reason = "stop"
            return self._finish(row)
        row.append(token)
        piece = row.write(row.stream.push(token))
        events: list[Event] = [TextPiece(row.ticket, piece)] if piece else []
        if row.finish_reason is None and self._is_full(row):
            row.finish_reason = "length"
        return events if row.finish_reason is None else [*events, *self._finish(row)]

    def _write_call(self, row: Row, token: int) -> list[Event]:
        """Inside a call: ask the tool at the arrow; take the call back if it cannot be one."""
        assert row.call is not None
        row.append(token)
        row.call.text += row.call.stream.push(token)
        text = row.call.text.lstrip(" ")
        if text.endswith(ARROW):
            return self._ask(row, text.removesuffix(ARROW) + END)
        length = len(row.token_ids) - row.call.token_index
        is_closed = token in self._end_ids or END in text.replace(rf"\{END}", "")
        if is_closed or length >= row.request.config.max_call_tokens or self._is_full(row):
            return self._take_back(row, is_malformed=True)
        return []

    def _ask(self, row: Row, text: str) -> list[Event]:
        """Let a thread ask the tool; the row is fed again when it has answered."""
        assert row.call is not None
        try:
            parsed = parse_call(text)
        except NotationError:
            return self._take_back(row, is_malformed=True)
        caller = self._tools.get(parsed.tool)
        if caller is None:
            return self._take_back(row, is_malformed=True)
        row.call.parsed = parsed
        call = (parsed.argument, row.request.context)
        row.answering = self._threads[parsed.tool].submit(lambda: caller.answers([call])[0])
        row.answering.add_done_callback(lambda _: self.wake.set())
        piece = row.release()
        events: list[Event] = [TextPiece(row.ticket, piece)] if piece else []
        at, written = len(row.completion), row.call.text
        return [*events, CallStarted(row.ticket, parsed.tool, parsed.argument, at, written)]

    def _hear(self, row: Row) -> list[Event]:
        """Write the tool's answer into its row, if it has come."""
        if row.answering is None or not row.answering.done():
            return []
        assert row.call is not None
        assert row.call.parsed is not None
        answer, row.answering = row.answering.result(), None
        rest = _rest_of_call(row.call.parsed, answer.result)
        ids = self._lm.encode(rest)
        if answer.outcome is Outcome.OK and row.num_tokens + len(ids) >= self._lm.context_tokens:
            reason = f"no room for a result of {len(ids)} tokens in the model's context"
            answer = answer._replace(outcome=Outcome.FAILED, reason=reason, result="")
        call = row.end_call(answer)
        if answer.outcome is not Outcome.OK:
            return [CallFinished(row.ticket, call, ""), *self._take_back(row)]
        row.write_call(rest, ids)
        event = CallFinished(row.ticket, call, rest)
        if self._is_full(row):
            row.finish_reason = "length"
            return [event, *self._finish(row)]
        return [event]

    def _take_back(self, row: Row, *, is_malformed: bool = False) -> list[Event]:
        """Go on with the token that the model would have chosen instead of the call."""
        row.num_malformed += is_malformed
        instead = row.take_back()
        self._rows.rewind(row.ticket, row.num_tokens)
        return self._write_text(row, instead)

    def _is_full(self, row: Row) -> bool:
        return (
            row.num_chosen >= row.request.config.max_new_tokens
            or row.num_tokens >= self._lm.context_tokens
        )

    def _finish(self, row: Row) -> list[Event]:
        piece = row.release()
        events: list[Event] = [TextPiece(row.ticket, piece)] if piece else []
        del self._live[row.ticket]
        self._rows.leave(row.ticket)
        return [*events, Finished(row.ticket, row.generation())]


def _rest_of_call(call: ParsedCall, result: str) -> str:
    """What comes behind the arrow: the result and the closing bracket."""
    before = render_call_with_result(call.tool, call.argument, "").removesuffix(f" {END}")
    return render_call_with_result(call.tool, call.argument, result).removeprefix(before)


@dataclass(frozen=True, slots=True)
class Decoder:
    """A model with the tools it may call, and how it decodes.

    With no tools it forbids <API>; `forbids_calls` and `prefix` are as in `Decoding`.
    """

    lm: HFModel
    tools: Mapping[str, Caller]
    config: DecodeConfig
    forbids_calls: bool = True
    prefix: str = ""

    def generate(self, prompts: Sequence[str], contexts: Sequence[CallContext]) -> list[Generation]:
        """One completion per prompt, in their order.

        Raises: as in `stream`.
        """
        finished = {
            event.ticket: event.generation
            for event in self.stream(prompts, contexts)
            if isinstance(event, Finished)
        }
        return [finished[ticket] for ticket in range(len(prompts))]

    def stream(self, prompts: Sequence[str], contexts: Sequence[CallContext]) -> Iterator[Event]:
        """What happens, as it happens; the tickets are 0, 1, ... in the order of the prompts.

        Raises: ConfigError for a prompt that is too long; TransientToolError for an outage.
        """
        decoding = Decoding(
            self.lm, self.tools, forbids_calls=self.forbids_calls, prefix=self.prefix
        )
        try:
            for prompt, context in zip(prompts, contexts, strict=True):
                decoding.add(DecodeRequest(prompt=prompt, context=context, config=self.config))
            while not decoding.is_idle:
                events = decoding.step()
                yield from events
                if not events and decoding.is_waiting:
                    decoding.wake.wait()
        finally:
            decoding.close()
