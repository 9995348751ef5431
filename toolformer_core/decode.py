"""Inference with calls (paper, section 2 "Inference" and section 4.2).

Greedy decoding, except that a call starts whenever <API> is among the call_top_k most likely
tokens and fewer than max_calls have been made. At the arrow the tool runs; its result and the
closing bracket are fed as if they had been decoded, on the same key/value cache, and decoding goes
on. Rows of a batch are independent: while one is fed its result, the others decode.

Choice: a failed call gets an empty result and decoding goes on; the paper is silent.

Shape legend: B batch, T tokens, V vocabulary.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from transformers import DynamicCache

from toolformer_core.calling import Caller
from toolformer_core.config import DecodeConfig
from toolformer_core.errors import NotationError
from toolformer_core.hf_lm import HFLanguageModel
from toolformer_core.notation import ARROW, END, parse_call, render_call_with_result
from toolformer_core.records import Outcome
from toolformer_core.tools.base import CallContext

MAX_CALL_TOKENS = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedCall:
    """One call made while decoding; `char_offset` is where it starts in the completion."""

    tool: str
    argument: str
    result: str
    outcome: Outcome
    char_offset: int
    latency_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A completion with its calls written out, and the same without them."""

    completion: str
    answer: str
    calls: tuple[DecodedCall, ...]
    num_malformed: int


@dataclass(slots=True)
class _Row:
    """One input on its way through decoding."""

    index: int
    context: CallContext
    token_ids: list[int] = field(default_factory=list)
    pending: deque[int] = field(default_factory=deque)
    call_start: int | None = None  # token index of the open call's "["
    num_chosen: int = 0  # tokens the model chose; results are not counted
    num_calls: int = 0
    num_malformed: int = 0
    calls: list[DecodedCall] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)  # token ranges of calls
    is_done: bool = False


@dataclass(frozen=True, slots=True)
class Decoder:
    """A model with the tools it may call.

    With no tools and call_top_k 0 it forbids <API>; `forbids_calls` False leaves a base model
    free to write brackets as text.
    """

    lm: HFLanguageModel
    tools: Mapping[str, Caller]
    config: DecodeConfig
    forbids_calls: bool = True

    def generate(self, prompts: Sequence[str], contexts: Sequence[CallContext]) -> list[Generation]:
        """One completion per prompt, in their order."""
        encoded = [[self.lm.document_start_id, *self.lm.encode(prompt)] for prompt in prompts]
        rows = [_Row(index, context) for index, context in enumerate(contexts)]
        order = sorted(rows, key=lambda row: (len(encoded[row.index]), row.index))
        for batch in self._batches(order, encoded):
            self._decode_batch(batch, encoded)
        return [self._generation(row) for row in rows]

    def _batches(self, order: Sequence[_Row], encoded: Sequence[list[int]]) -> list[list[_Row]]:
        """Rows of similar length whose prompts and completions fit the token budget."""
        batches: list[list[_Row]] = []
        for row in order:
            length = len(encoded[row.index]) + self.config.max_new_tokens
            if not batches or (len(batches[-1]) + 1) * length > self.lm.token_budget:
                batches.append([])
            batches[-1].append(row)
        return batches

    @torch.inference_mode()
    def _decode_batch(self, rows: list[_Row], encoded: Sequence[list[int]]) -> None:
        ids_BT, mask_BT = self.lm.pad_left([encoded[row.index] for row in rows])
        cache = DynamicCache(config=self.lm.model.config)
        while rows:
            logits_BV = self.lm.model(
                input_ids=ids_BT,
                attention_mask=mask_BT,
                position_ids=(mask_BT.cumsum(1) - 1).clamp(min=0)[:, -ids_BT.shape[1] :],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
            for row, logits_V in zip(rows, logits_BV, strict=True):
                self._advance(row, logits_V)
            live = [k for k, row in enumerate(rows) if not row.is_done]
            if len(live) < len(rows):
                rows = [rows[k] for k in live]
                if rows:
                    cache.batch_select_indices(torch.tensor(live, device=self.lm.device))
                    mask_BT = mask_BT[live]
            if rows:
                ids_BT = torch.tensor([[row.token_ids[-1]] for row in rows], device=self.lm.device)
                mask_BT = torch.cat([mask_BT, torch.ones_like(ids_BT)], dim=1)

    def _advance(self, row: _Row, logits_V: torch.Tensor) -> None:
        """Append the row's next token: a pending one of a result, or the model's choice."""
        if row.pending:
            row.token_ids.append(row.pending.popleft())
            row.is_done = not row.pending and row.num_chosen >= self.config.max_new_tokens
            return
        token = self._choose(row, logits_V)
        ends = (self.lm.tokenizer.eos_token_id, self.lm.document_start_id)
        if row.call_start is None and token in ends:
            row.is_done = True
            return
        row.token_ids.append(token)
        row.num_chosen += 1
        if row.call_start is not None:
            self._advance_call(row)
        if row.num_chosen >= self.config.max_new_tokens and not row.pending:
            row.is_done = True

    def _choose(self, row: _Row, logits_V: torch.Tensor) -> int:
        """Greedy, but for the start of a call."""
        if row.call_start is not None or (not self.forbids_calls and not self.tools):
            return int(logits_V.argmax())
        start_ids = torch.tensor(self.lm.start_ids, device=logits_V.device)
        best_start = start_ids[logits_V[start_ids].argmax()]
        if self.tools and row.num_calls < self.config.max_calls:
            rank = int((logits_V > logits_V[best_start]).sum())
            if rank < self.config.call_top_k:
                row.call_start = len(row.token_ids)
                row.num_calls += 1
                return int(best_start)
        return int(logits_V.index_fill(0, start_ids, float("-inf")).argmax())

    def _advance_call(self, row: _Row) -> None:
        """Inside a call: run the tool at the arrow; give the call up if it cannot be one."""
        assert row.call_start is not None
        text = self.lm.tokenizer.decode(row.token_ids[row.call_start :]).lstrip(" ")
        if text.endswith(ARROW):
            self._run_tool(row, text.removesuffix(ARROW))
        elif END in text or len(row.token_ids) - row.call_start >= MAX_CALL_TOKENS:
            row.num_malformed += 1
            row.spans.append((row.call_start, len(row.token_ids)))
            row.call_start = None

    def _run_tool(self, row: _Row, text: str) -> None:
        """Run the call that the text spells and queue its result and closing bracket."""
        assert row.call_start is not None
        try:
            call = parse_call(text + END)
        except NotationError:
            call = None
        if call is None or call.tool not in self.tools:
            row.num_malformed += 1
            row.spans.append((row.call_start, len(row.token_ids)))
            row.call_start = None
            return
        [answer] = self.tools[call.tool].answers([(call.argument, row.context)])
        outcome, _, result, latency = answer
        rendered = render_call_with_result(call.tool, call.argument, result)
        prefix = render_call_with_result(call.tool, call.argument, "").removesuffix(f" {END}")
        row.pending.extend(self.lm.encode(rendered.removeprefix(prefix)))
        before = self.lm.tokenizer.decode(row.token_ids[: row.call_start])
        row.calls.append(
            DecodedCall(
                tool=call.tool,
                argument=call.argument,
                result=result,
                outcome=outcome,
                char_offset=len(before),
                latency_seconds=latency,
            )
        )
        row.spans.append((row.call_start, len(row.token_ids) + len(row.pending)))
        row.call_start = None

    def _generation(self, row: _Row) -> Generation:
        decode = self.lm.tokenizer.decode
        spans = row.spans
        if row.call_start is not None:  # the tokens ran out inside a call
            spans = [*spans, (row.call_start, len(row.token_ids))]
        pieces, reached = [], 0
        for first, last in spans:
            pieces.append(decode(row.token_ids[reached:first]))
            reached = last
        pieces.append(decode(row.token_ids[reached:]))
        return Generation(
            completion=decode(row.token_ids),
            answer="".join(pieces),
            calls=tuple(row.calls),
            num_malformed=row.num_malformed + (row.call_start is not None),
        )
