"""What OpenAI's API answers with: completions, chunks of a stream, and errors."""

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from toolformer_core.decoded import (
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
    kinds = {429: "rate_limit_error", 500: "server_error"}
    kind = kinds.get(status, "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def refused(param: str | None, detail: Mapping[str, Any]) -> ApiError:  # Any: pydantic's
    """The error for a field, from what pydantic found."""
    if detail["type"] == "extra_forbidden":
        return ApiError(400, f"{param} is not supported here", param)
    shown = f"{param} = {detail['input']!r}"[:200] if param else "request"
    return ApiError(400, f"{shown}: {detail['msg']}", param)


def server_sent(content: Json) -> str:
    """One event of a stream."""
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


STREAM_END = "data: [DONE]\n\n"


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
            said = {"message": _said(text)} if self._is_chat else {"text": text}
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
        said = {"delta": _said(text)} if self._is_chat else {"text": text}
        return self._part([_choice(number, said, calls, finish_reason)])

    def usage_chunk(self, generations: Sequence[Generation]) -> Json:
        """The last part of a stream, where usage was asked for."""
        return {**self._part([]), "usage": usage(generations)}

    def _part(self, choices: list[Json]) -> Json:
        kind = "chat.completion.chunk" if self._is_chat else "text_completion"
        return {**self._head, "object": kind, "choices": choices}

    def _shown(self, number: int, event: CallFinished) -> str:
        """The call as it stands in the completion; nothing of one that was taken back."""
        is_shown = self._shows_calls and event.call.outcome is Outcome.OK
        return f"{self._begun[number]}{event.rest}" if is_shown else ""


def _said(text: str) -> Json:
    return {"role": "assistant", "content": text}


def _choice(number: int, said: Json, calls: list[Json], finish_reason: str | None) -> Json:
    end = {"logprobs": None, "finish_reason": finish_reason, "calls": calls}
    return {"index": number, **said, **end}


def _started(event: CallStarted) -> Json:
    """A call that has no outcome yet, with the fields of one that has."""
    known = {"tool": event.tool, "argument": event.argument, "char_offset": event.char_offset}
    return {**dict.fromkeys(DecodedCall.__dataclass_fields__), **known}
