"""A client of an OpenAI-compatible completions server, as far as the annotator needs one.

Servers answer with log-probabilities in two shapes: lists side by side (OpenAI, vLLM,
llama-cpp-python) or one object per token (llama.cpp). Both become `ServedToken`s here.
"""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import openai

from toolformer_core.errors import ConfigError, TransientModelError

_UNFILTERED = {"top_k": 0, "min_p": 0.0, "ignore_eos": True}
"""Neither vLLM nor llama.cpp may cut the distribution; and only the stop string ends a text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedToken:
    """One token as text; where it starts in prompt + completion; log-probabilities in nats."""

    text: str
    char_offset: int
    logprob: float  # NaN where the server gives none (a first token)
    alternatives: Mapping[str, float]  # the likeliest tokens at its place


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What a server answered."""

    text: str  # the prompt is no part of it
    is_stopped: bool  # by the stop string
    tokens: tuple[ServedToken, ...]  # of the prompt too, if it was echoed


class CompletionsClient:
    """One model behind one address."""

    def __init__(self, url: str, model: str, *, max_retries: int = 4) -> None:
        self.url = url
        self.model = model
        self._client = _client(url, max_retries)

    def complete(self, prompt: str, **settings: Any) -> Completion:  # Any: fields of the request
        """The completion of a prompt.

        Raises: TransientModelError for an outage, ConfigError where the server refuses.
        """
        extra = {**_UNFILTERED, **settings.pop("extra_body", {})}
        with _errors(self.url):
            answer = self._client.completions.create(
                model=self.model, prompt=prompt, extra_body=extra, **settings
            )
        content: dict[str, Any] = answer.model_dump()  # Any: JSON
        choice = content["choices"][0]
        text: str = choice["text"]
        if settings.get("echo") and text.startswith(prompt):
            text = text[len(prompt) :]
        tokens = list(_tokens(choice.get("logprobs") or {}))
        return Completion(
            text=text,
            is_stopped=choice["finish_reason"] == "stop",
            tokens=tuple(_placed(tokens, len(prompt) + len(text))),
        )


def served_models(url: str) -> list[str]:
    """Names of the models that a server offers.

    Raises: ConfigError if there is no such server.
    """
    try:
        with _errors(url):
            return [model.id for model in _client(url, max_retries=0).models.list()]
    except TransientModelError as error:
        raise ConfigError(str(error)) from error


def _client(url: str, max_retries: int) -> openai.OpenAI:
    # A server of one's own mostly wants no key.
    key = os.environ.get("OPENAI_API_KEY", "none")
    return openai.OpenAI(base_url=url, api_key=key, max_retries=max_retries)


@contextmanager
def _errors(url: str) -> Iterator[None]:
    """The library's errors as ours."""
    try:
        yield
    except (openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError) as error:
        raise TransientModelError(f"model server {url}: {type(error).__name__}: {error}") from error
    except openai.APIError as error:
        first = str(error).partition("\n")[0]
        raise ConfigError(f"model server {url} refuses: {first}") from error


def _tokens(logprobs: Mapping[str, Any]) -> Iterator[tuple[str, float, Mapping[str, float]]]:
    """Text, log-probability and alternatives of every token."""
    for entry in logprobs.get("content") or ():
        alternatives = {other["token"]: other["logprob"] for other in entry["top_logprobs"]}
        yield entry["token"], entry["logprob"], alternatives
    columns = (logprobs.get(name) or () for name in ("tokens", "token_logprobs", "top_logprobs"))
    for text, logprob, alternatives in zip(*columns, strict=False):
        yield text, math.nan if logprob is None else logprob, alternatives or {}


def _placed(
    tokens: Sequence[tuple[str, float, Mapping[str, float]]], end: int
) -> Iterator[ServedToken]:
    """The tokens with their places.

    Counted from the end, because a start token of the server's own may stand in front.
    """
    offset = end - sum(len(text) for text, _, _ in tokens)
    for text, logprob, alternatives in tokens:
        yield ServedToken(text=text, char_offset=offset, logprob=logprob, alternatives=alternatives)
        offset += len(text)
