"""Step 3, filtering API calls (paper, section 2, "Filtering API Calls").

    L+ = L_i(e(c, r))       L- = min( L_i(eps), L_i(e(c, eps)) )       keep iff L- - L+ >= tau_f

The prefix z stands before x_1, not at i (footnote 3), unless `prefix_position` says otherwise, and
M is the model without the few-shot prompt. Measuring (score_calls, forward passes) is apart from
deciding (filter_calls, free).
Losses are not negative, so L- - L+ <= L_i(eps) - L+: where that bound is below the lowest threshold
of interest, nothing more is measured.
Choice: z and x_1 are parted by `prefix_separator`; the paper does not say by what.
Choice: e(c, eps) is "[Name(argument) -> ]", the definition of e(c, r) with an empty r.
Departs: a call can also be made to beat controls, the same call with a result that is not its own
(off by default): related words in front lower the loss too, a right result should lower it more.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from toolformer_core.config.pipeline import Control, ToolScoreConfig
from toolformer_core.controls import pool_of, shuffled_result, wrong_result
from toolformer_core.lm import LanguageModel, LossRequest, TokenizedText
from toolformer_core.losses import loss_reduction, weighted_loss
from toolformer_core.notation import insertion, render_call_with_result
from toolformer_core.records import (
    Document,
    DropReason,
    ExecutedCall,
    FilterDecision,
    Outcome,
    ScoredCall,
)
from toolformer_core.tools.base import Tool

STAGE_VERSION = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    """The losses of the scored tokens given one prefix, and their weighted mean, in nats."""

    token_losses: tuple[float, ...]
    loss: float


class _Scorer:
    """Losses of calls under prefixes that hold a result, measured in batches."""

    def __init__(
        self, documents: Mapping[str, TokenizedText], lm: LanguageModel, config: ToolScoreConfig
    ) -> None:
        self._documents = documents
        self._lm = lm
        self._config = config

    def window(self, call: ExecutedCall) -> TokenizedText:
        """What the model saw of the call's document."""
        tokens = self._documents[call.document_id]
        if (call.window_start, call.window_end) == (0, len(tokens.token_ids)):
            return tokens
        return tokens.window(call.window_start, call.window_end)

    def scored_tokens(self, call: ExecutedCall) -> tuple[str, ...]:
        """x_i, x_i+1, ... as text."""
        window, first, last = self._span(call)
        offsets = window.char_offsets[first : last + 1]
        return tuple(window.text[a:b] for a, b in itertools.pairwise(offsets))

    def _span(self, call: ExecutedCall) -> tuple[TokenizedText, int, int]:
        window, first = self.window(call), call.token_index - call.window_start
        return window, first, min(first + self._config.num_scored_tokens, len(window.token_ids))

    def measure(
        self, results: Mapping[int, str], calls: Sequence[ExecutedCall]
    ) -> dict[int, _Measured]:
        """L_i(e(c, result)) for some of the calls, by index."""
        found = self._lm.token_losses([self._request(calls[k], r) for k, r in results.items()])
        width, weights = self._config.num_scored_tokens, self._config.token_weights
        return {
            k: _Measured(token_losses=nll, loss=weighted_loss(nll, width, weights))
            for k, nll in zip(results, found, strict=True)
        }

    def _request(self, call: ExecutedCall, result: str) -> LossRequest:
        window, first, last = self._span(call)
        prefix = render_call_with_result(call.tool, call.argument, result)
        is_in_place = self._config.prefix_position == "in_place"
        if is_in_place:
            prefix = "".join(insertion(window.text, window.char_offsets[first], prefix))
        else:
            prefix += self._config.prefix_separator
        return LossRequest(
            prefix=prefix,
            tokens=window,
            first=first,
            last=last,
            prefix_before=first if is_in_place else 0,
        )


def score_calls(  # noqa: PLR0913  # the last two are optional and by name
    executed: Sequence[ExecutedCall],
    documents: Mapping[str, Document],
    lm: LanguageModel,
    tool: Tool,
    config: ToolScoreConfig,
    *,
    prune_below: float = 0.0,
    result_pool: Sequence[str] = (),
) -> list[ScoredCall]:
    """The calls that have a result, with their losses in nats.

    `prune_below` is the lowest threshold of interest; `result_pool` is where wrong results come
    from (see result_pool).
    """
    calls = [call for call in executed if call.outcome is Outcome.OK]
    needed = {call.document_id for call in calls}
    tokens = {name: lm.tokenize(documents[name].text) for name in sorted(needed)}
    scorer = _Scorer(tokens, lm, config)
    with_result = scorer.measure({k: call.result for k, call in enumerate(calls)}, calls)
    # A bound that is not a number is not small: such a call goes on and is dropped as not finite.
    open_ = [
        k
        for k, call in enumerate(calls)
        if not call.loss_without_call - with_result[k].loss < prune_below
    ]
    with_empty = scorer.measure(dict.fromkeys(open_, ""), calls)
    margins = {
        k: loss_reduction(call.loss_without_call, with_empty[k].loss, with_result[k].loss)
        if k in with_empty
        else call.loss_without_call - with_result[k].loss
        for k, call in enumerate(calls)
    }
    ahead = [k for k in open_ if not margins[k] < prune_below]
    controls = {
        control: scorer.measure(_control_results(control, ahead, calls, result_pool), calls)
        for control in config.controls
    }
    return [
        _scored(
            call,
            scorer.scored_tokens(call),
            (with_empty.get(k), with_result[k], margins[k]),
            {name: found[k].loss for name, found in controls.items() if k in found},
            tool.is_right(call.result, documents[call.document_id].text[call.char_offset :]),
        )
        for k, call in enumerate(calls)
    ]


def _scored(
    call: ExecutedCall,
    scored_tokens: tuple[str, ...],
    losses: tuple[_Measured | None, _Measured, float],
    controls: Mapping[Control, float],
    is_right: bool | None,
) -> ScoredCall:
    """The record of a call; losses are with empty result, with result, and the reduction."""
    with_empty, with_result, reduction = losses
    return ScoredCall(
        candidate_id=call.candidate_id,
        document_id=call.document_id,
        tool=call.tool,
        char_offset=call.char_offset,
        token_index=call.token_index,
        argument=call.argument,
        result=call.result,
        loss_without_call=call.loss_without_call,
        loss_with_empty_result=with_empty.loss if with_empty else None,
        loss_with_result=with_result.loss,
        loss_with_wrong_result=controls.get("wrong_result"),
        loss_with_shuffled_result=controls.get("shuffled_result"),
        loss_reduction=reduction,
        scored_tokens=scored_tokens,
        token_losses_with_empty_result=with_empty.token_losses if with_empty else (),
        token_losses_with_result=with_result.token_losses,
        is_right=is_right,
    )


def result_pool(executed: Iterable[ExecutedCall]) -> tuple[str, ...]:
    """Results for the control with a wrong result: of the calls of all shards together."""
    return pool_of(call.result for call in executed if call.outcome is Outcome.OK)


def _control_results(
    control: Control, indices: Sequence[int], calls: Sequence[ExecutedCall], pool: Sequence[str]
) -> dict[int, str]:
    """A result that is not the call's own, for each call that can have one."""
    chosen = {
        k: wrong_result(calls[k].result, calls[k].candidate_id, pool)
        if control == "wrong_result"
        else shuffled_result(calls[k].result, calls[k].candidate_id)
        for k in indices
    }
    return {k: result for k, result in chosen.items() if result is not None}


def filter_calls(scored: Sequence[ScoredCall], filtering_threshold: float) -> list[FilterDecision]:
    """One decision per scored call: kept iff loss_reduction >= filtering_threshold (tau_f)."""
    return [_decide(call, filtering_threshold) for call in scored]


def _decide(call: ScoredCall, threshold: float) -> FilterDecision:
    reason = _drop_reason(call, threshold)
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


def _drop_reason(call: ScoredCall, threshold: float) -> DropReason | None:
    """Why the call is dropped; None if it is kept."""
    losses = (
        call.loss_without_call,
        call.loss_with_empty_result,
        call.loss_with_result,
        call.loss_reduction,
    )
    if not all(math.isfinite(loss) for loss in losses if loss is not None):
        return DropReason.NOT_FINITE
    if call.loss_reduction < threshold:
        return DropReason.BELOW_THRESHOLD
    if not beats_control(call, "wrong_result"):
        return DropReason.WRONG_RESULT
    if not beats_control(call, "shuffled_result"):
        return DropReason.SHUFFLED_RESULT
    return None


def beats_control(call: ScoredCall, control: Control) -> bool:
    """Whether a call helps more than its control; one that was not measured is beaten.

    None is measured where there is no other result, or none in another order.
    """
    losses = {
        "wrong_result": call.loss_with_wrong_result,
        "shuffled_result": call.loss_with_shuffled_result,
    }
    loss = losses[control]
    return loss is None or call.loss_with_result < loss
