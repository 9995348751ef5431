"""The weighted loss of the paper's filter (section 2, "Filtering API Calls").

    L_i(z) = - sum_{j >= i} w_{j-i} log p_M(x_j | z, x_1..x_{j-1})
    w_t    = w~_t / sum_s w~_s,   w~_t = max(0, 1 - 0.2 t)

Only five tokens have weight: 5, 4, 3, 2, 1 fifteenths. Flat weights, all the same up to the last,
are there to be compared with. Near the end of a text fewer tokens follow.
Choice: the paper is silent there; we renormalise over the tokens that exist, so that L stays a
weighted mean and thresholds keep their meaning.
"""

import math
from collections.abc import Sequence

from toolformer_core.config.pipeline import TokenWeights


def loss_weights(
    num_scored_tokens: int, num_available: int, token_weights: TokenWeights = "linear"
) -> tuple[float, ...]:
    """Weights w_0, w_1, ... of the tokens from i on; they sum to 1 (empty if none is left)."""
    count = min(num_scored_tokens, num_available)
    raw = [num_scored_tokens - t if token_weights == "linear" else 1 for t in range(count)]
    return tuple(weight / sum(raw) for weight in raw)


def weighted_loss(
    token_nll: Sequence[float], num_scored_tokens: int, token_weights: TokenWeights = "linear"
) -> float:
    """L_i from the negative log-likelihoods of x_i, x_{i+1}, ...; 0 where no token is left.

    Units: nats. Extra tokens are ignored. Source: paper, section 2 and footnote 3.
    """
    weights = loss_weights(num_scored_tokens, len(token_nll), token_weights)
    # Start at a float: an int 0 would be stored as 0.0 and change the digest of its row.
    return sum((w * nll for w, nll in zip(weights, token_nll, strict=False)), start=0.0)


def loss_reduction(
    loss_without_call: float, loss_with_empty_result: float, loss_with_result: float
) -> float:
    """L- minus L+, where L- = min(L_i(eps), L_i(e(c, eps))); NaN if any loss is. Units: nats."""
    if math.isnan(loss_without_call) or math.isnan(loss_with_empty_result):
        return math.nan  # min() would pass over the NaN
    return min(loss_without_call, loss_with_empty_result) - loss_with_result
