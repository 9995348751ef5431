"""Which tokens of a text are a call's."""

from toolformer_core.lm import TokenizedText
from toolformer_core.notation import START
from toolformer_core.records import CallSpan


def _tokens_within(tokens: TokenizedText, start: int, end: int) -> range:
    """Indices of the tokens that have a character in [start, end)."""
    offsets = tokens.char_offsets
    inside = [
        k for k in range(len(tokens.token_ids)) if offsets[k] < end and offsets[k + 1] > start
    ]
    return range(inside[0], inside[-1] + 1) if inside else range(0)


def call_place(tokens: TokenizedText, call: CallSpan) -> tuple[int, int]:
    """Where a call starts and where its arrow ends, in the row with the document-start token."""
    start = tokens.text.index(START, call.start)
    arrow_end = call.result_start - 1  # a space parts the arrow from the result
    before_result = _tokens_within(tokens, start, arrow_end)
    return before_result[0] + 1, before_result[-1] + 1
