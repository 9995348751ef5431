"""The HTTP API of a model that runs its tools: OpenAI's completions and chat completions.

A text is the answer without its calls, unless calls are to be shown; they are told beside it, as
`calls` of every choice and chunk. In a stream a call comes twice: when it starts, with the outcome
null, and when it has ended. What OpenAI's API has and this one has not is refused by its name.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from jinja2 import TemplateError
from pydantic import ValidationError
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException

from toolformer_core.config.pipeline import DecodeConfig
from toolformer_core.decoding.events import DecodeRequest, Event, Finished, Generation
from toolformer_core.errors import ConfigError, OverloadError
from toolformer_core.serving.answers import (
    STREAM_END,
    ApiError,
    Form,
    Json,
    error_content,
    refused,
    server_sent,
)
from toolformer_core.serving.decoding_thread import FAULTS, DecodingThread, Failed
from toolformer_core.serving.requests import ChatRequest, CompletionRequest, DecodingFields, Message
from toolformer_core.tools.base import NO_DOCUMENT
from toolformer_core.transformers_lm.model import HFModel

_CLIENT_HAS_GONE = 499  # nobody reads it


@dataclass(frozen=True, kw_only=True)
class Served:
    """A model as clients know it: its name, its settings, and whether calls are shown."""

    name: str
    lm: HFModel
    config: DecodeConfig
    show_calls: bool
    created: int = field(default_factory=lambda: int(time.time()))

    @cached_property
    def max_prompt_chars(self) -> int:
        """More characters fit in no case: those of the longest token, as often as there is room."""
        return self.lm.context_tokens * max(map(len, self.lm.tokenizer.get_vocab()))

    def described(self) -> Json:
        """As in /v1/models."""
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "toolformer",
            "context_tokens": self.lm.context_tokens,
        }


def build_app(served: Served, thread: DecodingThread, close: Callable[[], None]) -> FastAPI:
    """The API over one model; `close` is called when the server ends."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(close)

    app = FastAPI(title="toolformer", lifespan=lifespan)
    app.exception_handler(ApiError)(_answer_error)
    app.exception_handler(RequestValidationError)(_answer_bad_request)
    app.exception_handler(HTTPException)(_answer_no_request)

    @app.get("/health")
    async def health() -> JSONResponse:
        status = 200 if thread.is_alive else 503
        return JSONResponse({"is_alive": thread.is_alive, "num_open": thread.num_open}, status)

    @app.get("/v1/models")
    async def models() -> Json:
        return {"object": "list", "data": [served.described()]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Json:
        _check_model(served, name)
        return served.described()

    @app.post("/v1/completions", response_model=None)
    async def completions(asked: CompletionRequest, http: Request) -> Response:
        _check_model(served, asked.model)
        if not 0 < len(asked.prompts) <= thread.max_open:
            raise ApiError(400, f"prompt: expected 1 to {thread.max_open} texts", "prompt")
        requests = [
            DecodeRequest(prompt=prompt, context=NO_DOCUMENT, config=_decoding(asked, served))
            for prompt in asked.prompts
        ]
        return await _answer(requests, asked, "prompt", http, served, thread)

    @app.post("/v1/chat/completions", response_model=None)
    async def chat_completions(asked: ChatRequest, http: Request) -> Response:
        _check_model(served, asked.model)
        config = _decoding(asked, served)
        requests = [_chat_request(asked.messages, config, served.lm)]
        return await _answer(requests, asked, "messages", http, served, thread)

    return app


async def _answer_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return JSONResponse(error.content, error.status, error.headers)


async def _answer_bad_request(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    match first["loc"][1:]:
        case (str(param), *place):
            return JSONResponse(refused(param, first, place).content, 400)
    return JSONResponse(refused(None, first).content, 400)


async def _answer_no_request(http: Request, error: Exception) -> JSONResponse:
    """For an unknown path or method, or a body that the framework could not read."""
    assert isinstance(error, HTTPException)
    is_elsewhere = error.status_code in (404, 405)
    message = f"no {http.method} {http.url.path} here" if is_elsewhere else error.detail
    content = error_content(message, error.status_code)
    return JSONResponse(content, error.status_code, error.headers)


def _check_model(served: Served, name: str) -> None:
    if name != served.name:
        message = f"no model {name[:100]!r}; this server has {served.name!r}"
        raise ApiError(404, message, "model", "model_not_found")


def _decoding(asked: DecodingFields, served: Served) -> DecodeConfig:
    """How a row of a request is decoded.

    Raises: ApiError for a value out of range.
    """
    try:
        return asked.decoding(served.config)
    except ValidationError as error:
        detail = error.errors()[0]
        name = str(detail["loc"][0])
        raise refused("max_tokens" if name == "max_new_tokens" else name, detail) from error


def _chat_request(messages: Sequence[Message], config: DecodeConfig, lm: HFModel) -> DecodeRequest:
    """The conversation as one prompt.

    Choice: a model without a chat template, as most base models are, gets the bare texts.
    Raises: ApiError if the template has no place for these messages.
    """
    has_template = bool(lm.tokenizer.chat_template)
    if has_template:
        turns = [{"role": message.role, "content": message.text} for message in messages]
        try:
            prompt = lm.tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=True
            )
        except TemplateError as error:
            raise ApiError(400, f"messages: {error}", "messages") from error
    else:
        prompt = "\n".join(message.text for message in messages)
    return DecodeRequest(
        prompt=prompt, context=NO_DOCUMENT, config=config, starts_document=not has_template
    )


class _Answers:
    """The rows of one request: their events come from the decoding thread to the event loop."""

    def __init__(self, thread: DecodingThread, requests: Sequence[DecodeRequest]) -> None:
        """Raises: OverloadError if too many rows wait, or the thread has ended."""
        self._num_rows = len(requests)
        self._told: asyncio.Queue[tuple[int, Event | Failed]] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def deliver(number: int, told: Event | Failed) -> None:
            loop.call_soon_threadsafe(self._told.put_nowait, (number, told))

        self._submission = thread.submit(requests, deliver)

    async def accepted(self) -> None:
        """Raises: ConfigError if a row cannot be decoded; another of FAULTS if that failed."""
        await asyncio.wrap_future(self._submission.accepted)

    async def events(self) -> AsyncIterator[tuple[int, Event | Failed]]:
        """What happens, with the number of the row, until all have ended."""
        num_ended = 0
        while num_ended < self._num_rows:
            number, told = await self._told.get()
            num_ended += isinstance(told, Finished | Failed)
            yield number, told

    async def generations(self) -> list[Generation]:
        """The whole answers, in the order of the rows.

        Raises: ApiError if decoding failed.
        """
        ended: dict[int, Generation] = {}
        async for number, told in self.events():
            if isinstance(told, Failed):
                raise ApiError(500, told.reason)
            if isinstance(told, Finished):
                ended[number] = told.generation
        return [ended[number] for number in range(self._num_rows)]

    async def stream(self, form: Form, *, includes_usage: bool) -> AsyncIterator[str]:
        """The answers as server-sent events."""
        generations = []
        async for number, told in self.events():
            if isinstance(told, Failed):
                yield server_sent(error_content(told.reason, 500))
                return
            if isinstance(told, Finished):
                generations.append(told.generation)
            yield server_sent(form.chunk(number, told))
        if includes_usage:
            yield server_sent(form.usage_chunk(generations))
        yield STREAM_END

    async def cancel(self) -> None:
        """End what still decodes."""
        self._submission.cancel()


async def _answer(
    requests: Sequence[DecodeRequest],
    asked: DecodingFields,
    param: str,
    http: Request,
    served: Served,
    thread: DecodingThread,
) -> Response:
    """The response: a stream, or one JSON object; `param` is the field with the texts."""
    num_chars = max(len(request.prompt) for request in requests)
    if num_chars > served.max_prompt_chars:  # to cut it into tokens would keep the others waiting
        raise ApiError(400, f"{param} of {num_chars} characters; the context is shorter", param)
    try:
        answers = _Answers(thread, requests)
        await answers.accepted()
    except OverloadError as error:
        raise ApiError(429 if thread.is_alive else 503, str(error)) from error
    except ConfigError as error:
        raise ApiError(400, str(error), param) from error
    except FAULTS as error:
        raise ApiError(500, f"{type(error).__name__}: {error}") from error
    form = Form(
        served.name,
        is_chat=isinstance(asked, ChatRequest),
        shows_calls=served.show_calls if asked.show_calls is None else asked.show_calls,
    )
    if asked.stream:
        return StreamingResponse(
            answers.stream(form, includes_usage=asked.stream_options.include_usage),
            media_type="text/event-stream",
            background=BackgroundTask(answers.cancel),  # done when the client has gone, too
        )
    return await _whole(answers, form, http)


async def _whole(answers: _Answers, form: Form, http: Request) -> Response:
    """The answer in one piece, unless the client leaves before."""
    working = asyncio.ensure_future(answers.generations())
    leaving = asyncio.ensure_future(http.receive())  # the body is read: only the end can come
    try:
        await asyncio.wait([working, leaving], return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return JSONResponse(form.whole(working.result()))
        return Response(status_code=_CLIENT_HAS_GONE)
    finally:
        leaving.cancel()
        working.cancel()
        await answers.cancel()
