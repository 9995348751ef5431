"""What OpenAI's API answers with: completions, chunks of a stream, and errors."""

import json
import reprlib
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from toolformer_core.decoding.events import (
    CallFinished,
    CallStarted,
    DecodedCall,
    Event,
    Finished,
    Generation,
    TextPiece,
)
from toolformer_core.records import Outcome

Json = dict[str, Any]  # Any: JSON

_RETRY_AFTER_SECONDS = 1
_MAX_NAME_CHARS = 100  # of a field that is not known


class ApiError(Exception):
    """An answer that is an error; `param` is the field that it is about."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.content = error_content(message, status, param, code)
        self.headers = {"Retry-After": str(_RETRY_AFTER_SECONDS)} if status == 429 else None


def error_content(
    message: str, status: int, param: str | None = None, code: str | None = None
) -> Json:
    """OpenAI's shape of an error."""
    kinds = {429: "rate_limit_error", 500: "server_error", 503: "server_error"}
    kind = kinds.get(status, "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def refused(
    param: str | None,
    detail: Mapping[str, Any],  # Any: pydantic's
    place: Sequence[str | int] = (),
) -> ApiError:
    """The error for a field, from what pydantic found; `place`: where in it, if not at its top."""
    name = ".".join(map(str, (param or "request", *place)))[:_MAX_NAME_CHARS]
    if detail["type"] == "extra_forbidden":
        return ApiError(400, f"{name} is not supported here", param)
    if param is None or detail["type"] == "missing":
        return ApiError(400, f"{name}: {detail['msg']}", param)
    return ApiError(400, f"{param} = {reprlib.repr(detail['input'])}: {detail['msg']}", param)


def server_sent(content: Json) -> str:
    """One event of a stream: ASCII, for clients that end lines at U+2028 or U+0085 as well."""
    return f"data: {json.dumps(content)}\n\n"


STREAM_END = "data: [DONE]\n\n"
_ROLE = {"role": "assistant"}


def usage(generations: Sequence[Generation]) -> Json:
    """Tokens read and generated; results of tools count as generated."""
    num_read = sum(generation.num_prompt_tokens for generation in generations)
    num_generated = sum(len(generation.token_ids) for generation in generations)
    return {
        "prompt_tokens": num_read,
        "completion_tokens": num_generated,
        "total_tokens": num_read + num_generated,
    }


class Form:
    """How the answers to one request look."""

    def __init__(self, model: str, *, is_chat: bool, shows_calls: bool) -> None:
        self._is_chat = is_chat
        self._shows_calls = shows_calls
        self._begun: dict[int, str] = {}  # by row, the text of a call that a tool is at
        self._has_role: set[int] = set()  # rows of a chat whose role a chunk has told
        self._head = {
            "id": f"{'chatcmpl' if is_chat else 'cmpl'}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, generations: Sequence[Generation]) -> Json:
        """The answer in one piece."""
        choices = []
        for number, generation in enumerate(generations):
            text = generation.completion if self._shows_calls else generation.answer
            said = {"message": {**_ROLE, "content": text}} if self._is_chat else {"text": text}
            calls = [asdict(call) for call in generation.calls]
            choices.append(_choice(number, said, calls, generation.finish_reason))
        kind = "chat.completion" if self._is_chat else "text_completion"
        return {**self._head, "object": kind, "choices": choices, "usage": usage(generations)}

    def chunk(self, number: int, event: Event) -> Json:
        """The part of a stream that tells of one event of a row."""
        text, calls, finish_reason = "", list[Json](), None
        match event:
            case TextPiece():
                text = event.text
            case CallStarted():
                self._begun[number] = event.written
                calls = [_started(event)]
            case CallFinished():
                text, calls = self._shown(number, event), [asdict(event.call)]
            case Finished():
                finish_reason = event.generation.finish_reason
        said = {"delta": self._delta(number, text)} if self._is_chat else {"text": text}
        return self._part([_choice(number, said, calls, finish_reason)])

    def usage_chunk(self, generations: Sequence[Generation]) -> Json:
        """The last part of a stream, where usage was asked for."""
        return {**self._part([]), "usage": usage(generations)}

    def _part(self, choices: list[Json]) -> Json:
        kind = "chat.completion.chunk" if self._is_chat else "text_completion"
        return {**self._head, "object": kind, "choices": choices}

    def _delta(self, number: int, text: str) -> Json:
        """What a chunk adds to a message; clients join the role, too, so it comes once."""
        role = {} if number in self._has_role else _ROLE
        self._has_role.add(number)
        return {**role, "content": text}

    def _shown(self, number: int, event: CallFinished) -> str:
        """The call as it stands in the completion; nothing of one that was taken back."""
        is_shown = self._shows_calls and event.call.outcome is Outcome.OK
        return f"{self._begun[number]}{event.rest}" if is_shown else ""


def _choice(number: int, said: Json, calls: list[Json], finish_reason: str | None) -> Json:
    end = {"logprobs": None, "finish_reason": finish_reason, "calls": calls}
    return {"index": number, **said, **end}


def _started(event: CallStarted) -> Json:
    """A call that has no outcome yet, with the fields of one that has."""
    known = {"tool": event.tool, "argument": event.argument, "char_offset": event.char_offset}
    return {**dict.fromkeys(DecodedCall.__dataclass_fields__), **known}
