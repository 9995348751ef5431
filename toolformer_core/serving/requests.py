"""What may be asked over OpenAI's API, and what that means for decoding.

Fields of the API that are not here are refused. Those with a Literal may only say what holds
anyway; null is the same as leaving a field out.
"""

import secrets
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from toolformer_core.config.decoding import changed_decoding
from toolformer_core.config.pipeline import DecodeConfig


class _Fields(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, content: Any) -> Any:  # Any: JSON
        if not isinstance(content, dict):
            return content
        return {name: value for name, value in content.items() if value is not None}


class StreamOptions(_Fields):
    """What a stream tells beside the text."""

    include_usage: bool = False


class DecodingFields(_Fields):
    """What both kinds of request may say; what they leave out is as in toolformer.json.

    Ranges are those of DecodeConfig.
    """

    model: str
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: str | tuple[str, ...] = ()
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    user: str | None = None
    n: Literal[1] = 1
    presence_penalty: Literal[0] = 0
    frequency_penalty: Literal[0] = 0
    # Extensions.
    call_top_k: int | None = None
    call_threshold: float | None = None
    max_calls: int | None = None
    tools_enabled: bool = True
    show_calls: bool | None = None

    def decoding(self, config: DecodeConfig) -> DecodeConfig:
        """The model's settings with those of the request.

        A draw without a seed is a new one each time, as in OpenAI's API.
        Raises: pydantic's ValidationError for a value out of range.
        """
        given = {
            "max_new_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": secrets.randbelow(2**31) if self.seed is None else self.seed,
            "stop": (self.stop,) if isinstance(self.stop, str) else self.stop or None,
            "call_top_k": self.call_top_k,
            "call_threshold": self.call_threshold,
            "max_calls": self.max_calls if self.tools_enabled else 0,
        }
        return changed_decoding(config, given)


class CompletionRequest(DecodingFields):
    """A request to continue texts."""

    prompt: str | tuple[str, ...]
    best_of: Literal[1] = 1
    echo: Literal[False] = False

    @property
    def prompts(self) -> tuple[str, ...]:
        """The texts, each of which becomes a choice."""
        return (self.prompt,) if isinstance(self.prompt, str) else self.prompt


class TextPart(_Fields):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(_Fields):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | tuple[TextPart, ...]
    name: str | None = None

    @property
    def text(self) -> str:
        """What was said."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class ChatRequest(DecodingFields):
    """A request to go on with a conversation."""

    messages: tuple[Message, ...] = Field(min_length=1)
    max_completion_tokens: int | None = None
    logprobs: Literal[False] = False

    def decoding(self, config: DecodeConfig) -> DecodeConfig:
        """As of every request; max_completion_tokens is the newer name of max_tokens."""
        if self.max_completion_tokens is None:
            return super().decoding(config)
        renamed = self.model_copy(
            update={"max_tokens": self.max_completion_tokens, "max_completion_tokens": None}
        )
        return renamed.decoding(config)
