"""Why one call is kept or dropped: its losses token by token (paper, section 2).

The losses are measured by the function that measures them in a run; an explanation of a stored
candidate is made from its row and costs no forward pass. Left out: the windows that a run cuts a
long document into, and the control with another call's result.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from toolformer_core.config.pipeline import TokenWeights, ToolScoreConfig
from toolformer_core.errors import ConfigError
from toolformer_core.filter import filter_calls, score_calls
from toolformer_core.lm import LanguageModel, LossRequest, TokenizedText
from toolformer_core.losses import loss_weights, weighted_loss
from toolformer_core.records import Document, DropReason, ExecutedCall, Outcome, digest
from toolformer_core.tools.base import Tool


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedToken:
    """One scored token, its weight and its losses in nats (None where not measured)."""

    text: str
    weight: float
    nll_without_call: float
    nll_with_empty_result: float | None
    nll_with_result: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """One call's three losses in nats, the verdict, and the tokens that they are made of."""

    tool: str
    argument: str
    result: str
    char_offset: int
    loss_without_call: float
    loss_with_empty_result: float | None
    loss_with_result: float
    loss_reduction: float
    kept: bool
    reason: DropReason | None
    filtering_threshold: float
    is_right: bool | None
    tokens: tuple[ExplainedToken, ...]


def explain_call(  # noqa: PLR0913  # a call, where it stands, and how it is judged
    document: Document,
    char_offset: int,
    tool: Tool,
    call: tuple[str, str],
    lm: LanguageModel,
    config: ToolScoreConfig,
    filtering_threshold: float,
) -> Explanation:
    """The explanation of a call, given as (argument, result), at a character of the document.

    Raises: ConfigError if no token starts there.
    """
    tokens = lm.tokenize(document.text)
    at = _token_index(tokens, char_offset)
    last = min(at + config.num_scored_tokens, len(tokens.token_ids))
    plain = lm.token_losses([LossRequest(prefix="", tokens=tokens, first=at, last=last)])[0]
    loss = weighted_loss(plain, config.num_scored_tokens, config.token_weights)
    executed = _executed(document, tokens, at, tool, call, loss)
    everything = -math.inf  # measure all losses, whatever they are
    [scored] = score_calls(
        [executed], {document.document_id: document}, lm, tool, config, prune_below=everything
    )
    [decision] = filter_calls([scored], filtering_threshold)
    return explanation(
        {
            **asdict(scored),
            "token_losses_without_call": plain,
            "kept": decision.kept,
            "reason": decision.drop_reason,
            "filtering_threshold": filtering_threshold,
        },
        config.num_scored_tokens,
        config.token_weights,
    )


def _executed(
    document: Document,
    tokens: TokenizedText,
    at: int,
    tool: Tool,
    call: tuple[str, str],
    loss_without_call: float,
) -> ExecutedCall:
    """The call as a run would have executed it."""
    argument, result = call
    return ExecutedCall(
        candidate_id=digest(document.document_id, at, tool.name, argument, 0),
        document_id=document.document_id,
        tool=tool.name,
        char_offset=tokens.char_offsets[at],
        token_index=at,
        window_start=0,
        window_end=len(tokens.token_ids),
        argument=argument,
        loss_without_call=loss_without_call,
        tool_version=tool.version,
        outcome=Outcome.OK,
        outcome_reason="",
        result=result,
        latency_seconds=0.0,
    )


def explanation(
    row: Mapping[str, Any],  # Any: columns
    num_scored_tokens: int,
    token_weights: TokenWeights,
) -> Explanation:
    """The explanation of a scored candidate, given as its row of the index."""
    texts: Sequence[str] = row["scored_tokens"]
    tokens = itertools.zip_longest(
        texts,
        loss_weights(num_scored_tokens, len(texts), token_weights),
        row["token_losses_without_call"],
        row["token_losses_with_empty_result"],  # empty where not measured
        row["token_losses_with_result"],
    )
    names = ("text", "weight", "nll_without_call", "nll_with_empty_result", "nll_with_result")
    return Explanation(
        **{name: row[name] for name in Explanation.__slots__ if name != "tokens"},
        tokens=tuple(ExplainedToken(**dict(zip(names, t, strict=True))) for t in tokens),
    )


def _token_index(tokens: TokenizedText, char_offset: int) -> int:
    """The token that starts at a character; behind a space, the one that holds the space."""
    offsets = tokens.char_offsets
    if not 0 <= char_offset <= len(tokens.text):
        raise ConfigError(f"--at {char_offset}: expected 0 to {len(tokens.text)}")
    at = char_offset - 1 if tokens.text[:char_offset].endswith(" ") else char_offset
    if at in offsets:
        return len(offsets) - 1 - offsets[::-1].index(at)
    before = max(offset for offset in offsets if offset < at)
    after = min(offset for offset in offsets if offset > at)
    raise ConfigError(
        f"--at {char_offset}: inside the token {tokens.text[before:after]!r}; "
        f"expected {before} or {after}"
    )
