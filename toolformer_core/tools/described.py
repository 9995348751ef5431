"""A tool by its description: all that there is to know of one but how it answers."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from toolformer_core.errors import ConfigError
from toolformer_core.notation import CALL_PATTERN, render_call
from toolformer_core.tools.arguments import ArgumentSchema
from toolformer_core.tools.base import AnyPlace, Tool


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolDescription:
    """What is public of a tool; `parameters` is the JSON schema as text."""

    name: str
    description: str
    version: str
    takes_argument: bool
    parameters: str
    context_fields: tuple[str, ...]
    example: str | None
    prompt: str


def describe(tool: Tool) -> ToolDescription:
    """The description of a tool."""
    return ToolDescription(
        name=tool.name,
        description=tool.description,
        version=tool.version,
        takes_argument=tool.takes_argument,
        parameters=json.dumps(tool.parameters, sort_keys=True),
        context_fields=tool.context_fields,
        example=tool.example,
        prompt=tool.prompt,
    )


class DescribedTool(AnyPlace):
    """Base of the tools of a user's own: everything but `call`."""

    def __init__(  # noqa: PLR0913  # the description, by name
        self,
        *,
        name: str,
        description: str,
        version: str,
        parameters: dict[str, Any],  # Any: a JSON schema
        demonstrations: Sequence[str] = (),
        example: str | None = None,
        context_fields: tuple[str, ...] = (),
    ) -> None:
        """Raises: ConfigError for a schema or a demonstration that is none."""
        self.name = name
        self.description = " ".join(description.split()) or name
        self.version = version
        self.parameters = parameters
        self.arguments = ArgumentSchema(parameters, name)
        self.takes_argument = bool(self.arguments.names)
        self.context_fields = context_fields
        self.example = example
        self.prompt = build_prompt(
            name, self.description, self.arguments.signature(), demonstrations
        )


def build_prompt(name: str, description: str, signature: str, demonstrations: Sequence[str]) -> str:
    """The annotation prompt P of a tool, with {text} where x stands.

    Each demonstration is a text with its calls; without any the prompt is zero-shot.
    Choice: the paper writes every prompt by hand; this one is made from the tool's description.
    """
    head = (
        f"Copy the text and insert calls to the tool {name}: {description.rstrip('.')}. Write a "
        f'call as "{render_call(name, signature)}". Put it right before what it tells. Change '
        "nothing else."
    )
    shown = [_demonstration(name, text) for text in demonstrations]
    blocks = [block.replace("{text}", "(text)") for block in (head, *shown)]
    return "\n\n".join([*blocks, "Input:\n{text}\nOutput:\n"])


def _demonstration(name: str, text: str) -> str:
    """The text without its calls, then with them.

    Raises: ConfigError if it has no call of the tool.
    """
    if f"[{name}(" not in text or (plain := CALL_PATTERN.sub("", text)) == text:
        raise ConfigError(
            f"tool {name}: demonstration {text!r} has no call; expected one as in "
            f"{render_call(name, '...')}"
        )
    return f"Input:\n{plain}\nOutput:\n{text}"
