"""One input on its way through decoding: its tokens, its text, and the call that is open in it."""

import random
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from tokenizers.decoders import DecodeStream

from toolformer_core.calling.caller import CallAnswer
from toolformer_core.decoding.events import DecodedCall, DecodeRequest, FinishReason, Generation
from toolformer_core.fingerprint import fingerprint
from toolformer_core.notation import ATOM_REACH, ParsedCall, is_place

_CONTEXT_TOKENS = 16  # enough for a tokenizer to tell how a token is spelled behind others


class TextStream:
    """The text of tokens as they come, spelled as behind the tokens before them."""

    def __init__(self, tokenizer: Any, before: Sequence[int]) -> None:  # Any: untyped
        self._tokenizer = tokenizer.backend_tokenizer
        context = list(before[-_CONTEXT_TOKENS:])
        if tokenizer.decode(context).endswith("\N{REPLACEMENT CHARACTER}"):
            context = []  # half a character: the stream would give all of it once more
        self._stream = DecodeStream(ids=context, skip_special_tokens=False)

    def push(self, token: int) -> str:
        """What the token adds: nothing while a character is incomplete."""
        return self._stream.step(self._tokenizer, token) or ""


@dataclass(slots=True)
class OpenCall:
    """A call that is being written; `token_index` is that of its "["."""

    token_index: int
    num_chosen: int  # by the row before it
    instead: int  # the token that the model would have chosen
    stream: TextStream
    text: str = ""
    parsed: ParsedCall | None = None  # from the arrow on


@dataclass(slots=True)
class Row:
    """One input. `pending` are the tokens to feed next."""

    ticket: int
    request: DecodeRequest
    prompt_ids: list[int]
    tokenizer: Any  # Any: as above
    token_ids: list[int] = field(default_factory=list)
    pending: list[int] = field(default_factory=list)
    num_chosen: int = 0
    num_calls: int = 0
    num_malformed: int = 0
    calls: list[DecodedCall] = field(default_factory=list)
    call: OpenCall | None = None
    answering: "Future[CallAnswer] | None" = None
    finish_reason: FinishReason | None = None
    completion: str = ""
    answer: str = ""
    held: str = ""  # the end of the answer that may begin a stop text
    draws: random.Random = field(init=False)
    stream: TextStream = field(init=False)

    def __post_init__(self) -> None:
        self.pending = list(self.prompt_ids)
        self.draws = random.Random(fingerprint(self.request.config.seed, self.request.prompt))
        self.stream = self.new_stream()

    @property
    def num_tokens(self) -> int:
        """Of the prompt and the completion."""
        return len(self.prompt_ids) + len(self.token_ids)

    def new_stream(self) -> TextStream:
        """The text of what comes next."""
        return TextStream(self.tokenizer, [*self.prompt_ids, *self.token_ids])

    def is_place(self, next_token: int) -> bool:
        """Whether a call may start here, where the text would go on with this token.

        As in a text of C*; but a prompt that ends with a space is taken as it is.
        """
        prompt = self.request.prompt if self.token_ids else self.request.prompt.rstrip(" ")
        before = prompt[-ATOM_REACH:] + self.completion + self.held
        return is_place(before, self.new_stream().push(next_token))

    def append(self, token: int) -> None:
        """A token that the model has chosen, to be fed next."""
        self.token_ids.append(token)
        self.num_chosen += 1
        self.pending = [token]

    def write(self, text: str) -> str:
        """Add text to the answer; what of it is certain to stay there."""
        self.held += text
        stops = self.request.config.stop
        found = [at for at in map(self.held.find, stops) if at >= 0]
        if found:
            self.held = self.held[: min(found)]
            self.finish_reason = "stop"
            return self.release()
        limit = self.request.config.max_words
        if limit is not None and len((self.answer + self.held).split()) > limit:
            self.finish_reason = "length"
            return self.release()
        return self.release(_begun_stop(self.held, stops))

    def release(self, num_held: int = 0) -> str:
        """Let go of the held text but for its last characters."""
        certain = self.held[: len(self.held) - num_held]
        self.held = self.held[len(certain) :]
        self.answer += certain
        self.completion += certain
        return certain

    def open_call(self, instead: int, token_ids: Sequence[int]) -> None:
        """Begin a call with these tokens, in the place of another token."""
        stream = self.new_stream()
        self.call = OpenCall(len(self.token_ids), self.num_chosen, instead, stream)
        self.num_calls += 1
        for token in token_ids:
            self.append(token)
            self.call.text += stream.push(token)
        self.pending = list(token_ids)

    def end_call(self, answer: CallAnswer) -> DecodedCall:
        """Take note of how the open call ended."""
        assert self.call is not None
        assert self.call.parsed is not None
        call = DecodedCall(
            tool=self.call.parsed.tool,
            argument=self.call.parsed.argument,
            result=answer.result,
            outcome=answer.outcome,
            reason=answer.reason,
            char_offset=len(self.completion),
            latency_seconds=answer.latency_seconds,
        )
        self.calls.append(call)
        return call

    def write_call(self, rest: str, token_ids: Sequence[int]) -> None:
        """Close the open call with its result."""
        assert self.call is not None
        self.completion += self.call.text + rest
        self.token_ids += token_ids
        self.pending += token_ids
        self.call = None
        self.stream = self.new_stream()

    def take_back(self) -> int:
        """Forget the open call; the token that the model would have chosen in its place."""
        assert self.call is not None
        del self.token_ids[self.call.token_index :]
        self.num_chosen = self.call.num_chosen
        instead, self.call = self.call.instead, None
        return instead

    def generation(self) -> Generation:
        """What has come out."""
        assert self.finish_reason is not None
        return Generation(
            completion=self.completion,
            answer=self.answer,
            calls=tuple(self.calls),
            num_malformed=self.num_malformed,
            finish_reason=self.finish_reason,
            num_prompt_tokens=len(self.prompt_ids),
            token_ids=tuple(self.token_ids),
        )


def _begun_stop(text: str, stops: Sequence[str]) -> int:
    """Length of the longest end of the text with which a stop text begins."""
    longest = max(map(len, stops), default=0)
    ends = range(min(longest - 1, len(text)), 0, -1)
    return next((n for n in ends if any(s.startswith(text[-n:]) for s in stops)), 0)
