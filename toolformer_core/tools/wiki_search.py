"""WikiSearch: the best passage of a collection for a query, as "Title > text" (paper, section 3).

Choice: the length of the snippet and the number of results (one) are not in the paper; neither is
what a passage without a title looks like: its text alone.
Departs: a passage of the document that the call stands in is never returned; else the search would
read out the very text that is scored.
"""

import re
from typing import Any

from toolformer_core.notation import unquote
from toolformer_core.tools.base import CallContext, has_begun, load_prompt
from toolformer_core.tools.search_index import SearchIndex

_PARAMETERS: dict[str, Any] = {  # Any: a JSON schema
    "type": "object",
    "properties": {"query": {"type": "string"}},
    "required": ["query"],
}
_SMALL_WORDS = re.compile(r"[ \t]*(?:(?:the|a|an|of|in|on|at|by|to|from) )*[\"(]?")


class SearchRules:
    """Where a search can help; whether it found what the text needs, no rule can tell."""

    def can_help_at(self, before: str, after: str, context: CallContext) -> bool:
        """Whether a sentence has begun and a name or a number comes next."""
        small_words = _SMALL_WORDS.match(after)
        first = after[small_words.end() :][:1] if small_words else ""
        return has_begun(before) and (first.isupper() or first.isdigit())

    def is_right(self, result: str, after: str) -> bool | None:
        """None: no rule tells whether a passage is what the text needs."""
        return None


class WikiSearch(SearchRules):
    """Looks up the best passage of an index."""

    name = "WikiSearch"
    description = "Searches an encyclopedia; answers with a title and the start of a passage."
    takes_argument = True
    parameters = _PARAMETERS
    context_fields: tuple[str, ...] = ("document_id", "url")
    example: str | None = "city river"

    def __init__(self, index: SearchIndex, max_snippet_chars: int) -> None:
        self.prompt = load_prompt("wiki_search")
        self.version = f"2-{index.digest}-{max_snippet_chars}"
        self._index = index
        self._max_snippet_chars = max_snippet_chars

    def call(self, argument: str, context: CallContext) -> str:
        """The best passage of another document as "Title > text", or nothing if no word matches."""
        found = self._index.search(unquote(argument), limit=1, context=context)
        if not found:
            return ""
        snippet = cut_at_word(found[0].text, self._max_snippet_chars)
        return f"{found[0].title} > {snippet}" if found[0].title else snippet


def cut_at_word(text: str, max_chars: int) -> str:
    """The start of the text on one line, at most max_chars long, ending with a whole word."""
    line = " ".join(text.split())
    if len(line) <= max_chars:
        return line
    head, space, _ = line[: max_chars + 1].rpartition(" ")
    return head if space else line[:max_chars]
