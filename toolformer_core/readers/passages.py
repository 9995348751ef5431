"""Cutting a long text into passages; nothing but white space at the cuts is lost."""

import re

# Each match ends where a passage may end; white space always follows.
_PARAGRAPH_END = re.compile(r"\S(?=\s*\n\s*\n)")
# Choice: no sentence ends after an initial ("J.") or a two-letter title ("Dr."); the wide stops
# of Chinese and Japanese need no white space.
_SENTENCE_END = re.compile(
    r"(?<!\b[A-Z])(?<!\b[A-Z][a-z])[.!?][\"')\]\u2019\u201d]*(?=\s)|[\u3002\uff01\uff1f]"
)
_WORD_END = re.compile(r"\S(?=\s)")


def cut_passages(text: str, max_chars: int) -> list[str]:
    """The text in passages of at most max_chars, each without outer white space.

    A passage ends at a paragraph end, else a sentence end, else white space, else anywhere.
    """
    passages = []
    start, end = 0, len(text.rstrip())
    while start < end:
        if text[start].isspace():
            start += 1
            continue
        cut = end if end - start <= max_chars else _cut_offset(text, start, max_chars)
        passages.append(text[start:cut].rstrip())
        start = cut
    return passages


def _cut_offset(text: str, start: int, max_chars: int) -> int:
    """Where the passage that begins at `start` ends."""
    limit = start + max_chars
    # Choice: a paragraph or sentence end counts from half the length on; ending earlier would
    # leave passages too short to be documents.
    earliest = {_PARAGRAPH_END: max_chars // 2, _SENTENCE_END: max_chars // 2, _WORD_END: 1}
    for pattern, min_chars in earliest.items():
        ends = (match.end() for match in pattern.finditer(text, start, limit + 2))
        found = [end for end in ends if start + min_chars <= end <= limit]
        if found:
            return found[-1]
    return limit
