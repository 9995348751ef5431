"""The protocol of a tool, and what a call may know about its document.

A tool maps one text argument to one text result (paper, section 2, "Executing API Calls"). It
must give the same answer for the same argument and context.
"""

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from importlib import resources
from typing import Any, Protocol, runtime_checkable

from toolformer_core.errors import ToolError
from toolformer_core.notation import CURRENCY
from toolformer_core.records import Document

_SENTENCE_ENDS = ("", ".", "!", "?", ":", "\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class CallContext:
    """The document a call stands in; a tool must not use its text."""

    document_id: str
    url: str | None
    date: str | None  # ISO 8601, to the day


NO_DOCUMENT = CallContext(document_id="", url=None, date=None)
"""The context at inference: there is no document."""

NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}
TEXT_PARAMETER: dict[str, Any] = {
    "type": "object",
    "properties": {"text": {"type": "string"}},
    "required": ["text"],
}
"""JSON schemas (Any: nested) of a tool without argument, and of one that takes any text."""


class Rules(Protocol):
    """What is known of a tool's calls without running it."""

    def can_help_at(self, before: str, after: str, context: CallContext) -> bool:
        """Whether a call at this place could be right.

        What stands before must allow an argument; what stands right after must be of the kind
        that the tool gives, because only the next five tokens are scored.
        """

    def is_right(self, result: str, after: str) -> bool | None:
        """Whether the text goes on with the result; None where that cannot be checked."""


class Tool(Rules, Protocol):
    """What the model can call."""

    name: str
    description: str
    version: str
    """Changes whenever an answer can change (code, data or index)."""
    takes_argument: bool
    """Whether anything stands between the brackets of a call."""
    parameters: dict[str, Any]  # Any: a JSON schema
    """JSON schema of what stands between the brackets."""
    context_fields: tuple[str, ...]
    """The fields of the context that an answer depends on; a call is shown no others."""
    example: str | None
    """An argument that has an answer, to see whether the tool is well."""
    prompt: str
    """The few-shot annotation prompt, with {text} where x stands."""

    def call(self, argument: str, context: CallContext) -> str:
        """The result as one text.

        Raises: ToolInputRejected for a bad argument; TransientToolError for an outage.
        """


@runtime_checkable
class BatchTool(Protocol):
    """A tool that answers many calls at less than their price one by one."""

    def call_batch(self, calls: Sequence[tuple[str, CallContext]]) -> list[str | ToolError]:
        """One answer per call, an error of its own in the place of one.

        Raises: TransientToolError for an outage.
        """


class AnyPlace:
    """Rules of a tool that nothing special is known of."""

    def can_help_at(self, before: str, after: str, context: CallContext) -> bool:
        """Whether a sentence has begun and goes on."""
        return has_begun(before) and not before[-1:].isalnum() and bool(after.strip())

    def is_right(self, result: str, after: str) -> bool | None:
        """Of a result that is a number, whether it is the next number; else None."""
        return states_number(result, after)


def has_begun(before: str) -> bool:
    """Whether the place is inside a sentence."""
    return before.rstrip(" \"')")[-1:] not in _SENTENCE_ENDS


def context_of(document: Document) -> CallContext:
    """What a call may know about its document."""
    return CallContext(document_id=document.document_id, url=document.url, date=document.date)


def visible_context(tool: Tool, context: CallContext) -> CallContext:
    """The context without what the tool does not depend on, so that equal calls are equal."""
    shown = {name: getattr(context, name) for name in tool.context_fields}
    return dataclasses.replace(NO_DOCUMENT, **shown)


def load_prompt(name: str) -> str:
    """The annotation prompt in `prompts/NAME.txt`, with {text} where x stands."""
    folder = resources.files("toolformer_core.prompts")
    return (folder / f"{name}.txt").read_text(encoding="utf-8")


NUMBER_PATTERN = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
"""An unsigned number, thousands commas allowed."""

_NUMBER = re.compile(NUMBER_PATTERN)
_WORD = re.compile(r"[^\W\d_]{3,}")


def numbers_in(text: str) -> list[Decimal]:
    """The unsigned numbers of the text in order; 1,000 and 1000.0 are equal."""
    return [Decimal(number.replace(",", "")) for number in _NUMBER.findall(text)]


def looks_ahead(argument: str, before: str, after: str) -> bool:
    """Whether a number or word of the argument first appears after the call.

    The annotator sees the whole text, the tuned model will not: such a call teaches guessing.
    Departs: the paper has this guard for machine translation only (Appendix A); we apply it to
    every tool. Words of one or two letters and terms that occur nowhere in the text pass.
    """
    ahead_only = _terms(after) - _terms(before)
    return not ahead_only.isdisjoint(_terms(argument))


def _terms(text: str) -> set[Decimal | str]:
    """Numbers by value, and words of three letters or more in lower case."""
    words = (word.casefold() for word in _WORD.findall(text))
    return {*numbers_in(text), *words}


CHECKED_CHARS = 40
"""A stated number counts as the next one if it starts within so many characters."""

_STATED = re.compile(
    rf"(?<![\w.])(?P<sign>[-\u2212]?){CURRENCY}?\s?(?P<number>{NUMBER_PATTERN})"
    r"(?P<percent> ?(?:%|per ?cent\b))?"
)


def states_number(result: str, after: str) -> bool | None:
    """Whether the next number is the result; None if none is near, or the result is none.

    Choice: 40% is 40 as well as 0.40.
    """
    stated = _STATED.search(after)
    if stated is None or stated.start("number") >= CHECKED_CHARS:
        return None
    try:
        value = Decimal(result)
    except InvalidOperation:
        return None
    number = Decimal(stated["number"].replace(",", ""))
    signed = -number if stated["sign"] else number
    return value == signed or (stated["percent"] is not None and value == signed / 100)
