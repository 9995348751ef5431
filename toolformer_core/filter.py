"""Step 3, filtering API calls (paper, section 2, "Filtering API Calls").

    L+ = L_i(e(c, r))       L- = min( L_i(eps), L_i(e(c, eps)) )       keep iff L- - L+ >= tau_f

The prefix z stands before x_1, not at i (footnote 3), and M is the model without the few-shot
prompt. Measuring (score_calls, forward passes) is apart from deciding (filter_calls, free).
Choice: z and x_1 are parted by `prefix_separator`; the paper does not say by what.
Choice: e(c, eps) is "[Name(argument) -> ]", the definition of e(c, r) with an empty r.
"""

import math
from collections.abc import Mapping, Sequence

from toolformer_core.config import ScoreConfig
from toolformer_core.lm import LanguageModel, LossRequest, TokenizedText
from toolformer_core.losses import loss_reduction, weighted_loss
from toolformer_core.notation import render_call_with_result
from toolformer_core.records import (
    Document,
    DropReason,
    ExecutedCall,
    FilterDecision,
    Outcome,
    ScoredCall,
)
from toolformer_core.tools.base import Tool

STAGE_VERSION = 1


def score_calls(
    executed: Sequence[ExecutedCall],
    documents: Mapping[str, Document],
    lm: LanguageModel,
    tool: Tool,
    config: ScoreConfig,
) -> list[ScoredCall]:
    """The calls that have a result, with their three losses in nats."""
    calls = [call for call in executed if call.outcome is Outcome.OK]
    needed = {call.document_id for call in calls}
    tokens = {name: lm.tokenize(documents[name].text) for name in sorted(needed)}
    prefixes = [
        render_call_with_result(call.tool, call.argument, result) + config.prefix_separator
        for call in calls
        for result in (call.result, "")
    ]
    requests = [
        _request(prefix, calls[k // 2], tokens[calls[k // 2].document_id], config)
        for k, prefix in enumerate(prefixes)
    ]
    losses = [weighted_loss(nll, config.num_scored_tokens) for nll in lm.token_losses(requests)]
    return [
        _scored(call, documents[call.document_id], tool, losses[2 * k], losses[2 * k + 1])
        for k, call in enumerate(calls)
    ]


def _request(
    prefix: str, call: ExecutedCall, tokens: TokenizedText, config: ScoreConfig
) -> LossRequest:
    last = min(call.token_index + config.num_scored_tokens, len(tokens.token_ids))
    return LossRequest(prefix=prefix, tokens=tokens, first=call.token_index, last=last)


def _scored(
    call: ExecutedCall, document: Document, tool: Tool, with_result: float, with_empty: float
) -> ScoredCall:
    return ScoredCall(
        candidate_id=call.candidate_id,
        document_id=call.document_id,
        tool=call.tool,
        char_offset=call.char_offset,
        token_index=call.token_index,
        argument=call.argument,
        result=call.result,
        loss_without_call=call.loss_without_call,
        loss_with_empty_result=with_empty,
        loss_with_result=with_result,
        loss_reduction=loss_reduction(call.loss_without_call, with_empty, with_result),
        is_right=tool.is_right(call.result, document.text[call.char_offset :]),
    )


def filter_calls(scored: Sequence[ScoredCall], filtering_threshold: float) -> list[FilterDecision]:
    """One decision per scored call: kept iff loss_reduction >= filtering_threshold (tau_f)."""
    return [_decide(call, filtering_threshold) for call in scored]


def _decide(call: ScoredCall, threshold: float) -> FilterDecision:
    reason = None
    losses = (
        call.loss_without_call,
        call.loss_with_empty_result,
        call.loss_with_result,
        call.loss_reduction,
    )
    if not all(map(math.isfinite, losses)):
        reason = DropReason.NOT_FINITE
    elif call.loss_reduction < threshold:
        reason = DropReason.BELOW_THRESHOLD
    return FilterDecision(
        candidate_id=call.candidate_id,
        document_id=call.document_id,
        tool=call.tool,
        char_offset=call.char_offset,
        argument=call.argument,
        result=call.result,
        loss_reduction=call.loss_reduction,
        filtering_threshold=threshold,
        kept=reason is None,
        drop_reason=reason,
        is_right=call.is_right,
    )
