"""The protocol of a tool, and what a call may know about its document.

A tool maps one text argument to one text result (paper, section 2, "Executing API Calls"). It
must give the same answer for the same argument and context.
"""

import re
from dataclasses import dataclass
from typing import Protocol


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
    prompt: str
    """The few-shot annotation prompt, with {text} where x stands."""

    def call(self, argument: str, context: CallContext) -> str:
        """The result as one text.

        Raises: ToolInputRejected for a bad argument; TransientToolError for an outage.
        """

    def can_help_at(self, before: str, context: CallContext) -> bool:
        """Whether any call at this place could be right, given only the text before it."""

    def is_right(self, result: str, after: str) -> bool | None:
        """Whether the text goes on with the result; None where that cannot be checked."""


_TERM = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]{3,}")


def looks_ahead(argument: str, before: str, after: str) -> bool:
    """Whether a number or word of the argument first appears after the call.

    The annotator sees the whole text, the tuned model will not: such a call teaches guessing.
    Departs: the paper has this guard for machine translation only (Appendix A); we apply it to
    every tool. Words of one or two letters and terms that occur nowhere in the text pass.
    """
    seen, ahead = _terms(before), _terms(after)
    return any(term in ahead and term not in seen for term in _terms(argument))


def _terms(text: str) -> set[str]:
    """Numbers (thousands commas removed) and words of three letters or more, lower case."""
    return {match[0].casefold().replace(",", "") for match in _TERM.finditer(text)}
