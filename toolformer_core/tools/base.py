"""The protocol of a tool, and what a call may know about its document.

A tool maps one text argument to one text result (paper, section 2, "Executing API Calls"). It
must give the same answer for the same argument and context.
"""

import re
from dataclasses import dataclass
from decimal import Decimal
from importlib import resources
from typing import Protocol

from toolformer_core.records import Document


@dataclass(frozen=True, slots=True, kw_only=True)
class CallContext:
    """The document a call stands in; a tool must not use its text."""

    document_id: str
    url: str | None
    date: str | None  # ISO 8601, to the day


NO_DOCUMENT = CallContext(document_id="", url=None, date=None)
"""The context at inference: there is no document."""


class Tool(Protocol):
    """What the model can call."""

    name: str
    description: str
    version: str
    """Changes whenever an answer can change (code, data or index)."""
    takes_argument: bool
    """Whether anything stands between the brackets of a call."""
    prompt: str
    """The few-shot annotation prompt, with {text} where x stands."""

    def call(self, argument: str, context: CallContext) -> str:
        """The result as one text.

        Raises: ToolInputRejected for a bad argument; TransientToolError for an outage.
        """

    def can_help_at(self, before: str, after: str, context: CallContext) -> bool:
        """Whether a call at this place could be right.

        What stands before must allow an argument; what stands right after must be of the kind
        that the tool gives, because only the next five tokens are scored.
        """

    def is_right(self, result: str, after: str) -> bool | None:
        """Whether the text goes on with the result; None where that cannot be checked."""


def context_of(document: Document) -> CallContext:
    """What a call may know about its document."""
    return CallContext(document_id=document.document_id, url=document.url, date=document.date)


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
