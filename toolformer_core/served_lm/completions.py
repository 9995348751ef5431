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
from urllib.parse import urlsplit

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
        with _errors(self.url):
            answer = self._client.completions.with_raw_response.create(
                model=self.model, prompt=prompt, extra_body=_UNFILTERED, **settings
            )
            choice = answer.http_response.json()["choices"][0]
            text: str = choice["text"]
            if settings.get("echo") and text.startswith(prompt):
                text = text[len(prompt) :]
            tokens = list(_tokens(choice.get("logprobs") or {}))
        return Completion(
            text=text,
            is_stopped=choice["finish_reason"] == "stop",
            tokens=tuple(_placed(tokens, prompt + text)),
        )


def served_models(url: str) -> list[str]:
    """Names of the models that a server offers.

    Raises: ConfigError if there is no such server.
    """
    try:
        with _errors(url):
            answer = _client(url, max_retries=0).models.with_raw_response.list()
            return [str(model["id"]) for model in answer.http_response.json()["data"]]
    except TransientModelError as error:
        raise ConfigError(str(error)) from error


def _client(url: str, max_retries: int) -> openai.OpenAI:
    # A server of one's own mostly wants no key.
    key = os.environ.get("OPENAI_API_KEY") or "none"
    with _errors(url):
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise ValueError(url)
        return openai.OpenAI(base_url=url, api_key=key, max_retries=max_retries)


@contextmanager
def _errors(url: str) -> Iterator[None]:
    """The library's errors as ours.

    Answers are read as JSON and not as the library's types, which know neither llama.cpp's
    log-probabilities nor a page that is no answer at all.
    """
    try:
        yield
    except (openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError) as error:
        raise TransientModelError(f"model server {url}: {type(error).__name__}: {error}") from error
    except openai.OpenAIError as error:
        first = str(error).partition("\n")[0]
        raise ConfigError(f"model server {url} refuses: {first}") from error
    except (ValueError, TypeError, LookupError) as error:
        raise ConfigError(
            f"model server {url}: not an answer of the completions API ({type(error).__name__}); "
            "expected an address as in http://HOST:8000/v1"
        ) from error


def _tokens(logprobs: Mapping[str, Any]) -> Iterator[tuple[str, float, Mapping[str, float]]]:
    """Text, log-probability and alternatives of every token."""
    for entry in logprobs.get("content") or ():
        yield entry["token"], entry["logprob"], _merged(entry["top_logprobs"])
    columns = (logprobs.get(name) or () for name in ("tokens", "token_logprobs", "top_logprobs"))
    for text, logprob, alternatives in zip(*columns, strict=False):
        yield text, math.nan if logprob is None else logprob, alternatives or {}


def _merged(entries: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Log-probability by text; several tokens may have the same."""
    merged: dict[str, float] = {}
    for entry in entries:
        text, logprob = entry["token"], entry["logprob"]
        if text in merged:
            logprob = math.log(math.exp(merged[text]) + math.exp(logprob))
        merged[text] = logprob
    return merged


def _placed(
    tokens: Sequence[tuple[str, float, Mapping[str, float]]], text: str
) -> Iterator[ServedToken]:
    """The tokens whose place in the text is certain.

    Some show another text than they stand for: a start token of the server's own, a part of a
    character. Tokens are therefore counted from both ends, up to the first that does not fit.
    """
    starts: dict[int, int] = {}
    first = next((k for k, (token, _, _) in enumerate(tokens) if text.startswith(token)), 0)
    reached = 0
    for k in range(first, len(tokens)):
        if not text.startswith(tokens[k][0], reached):
            break
        starts[k] = reached
        reached += len(tokens[k][0])
    reached = len(text)
    for k in reversed(range(len(tokens))):
        if not text.endswith(tokens[k][0], 0, reached) or k in starts:
            break
        reached -= len(tokens[k][0])
        starts[k] = reached
    for k in sorted(starts):
        token, logprob, alternatives = tokens[k]
        yield ServedToken(
            text=token, char_offset=starts[k], logprob=logprob, alternatives=alternatives
        )
