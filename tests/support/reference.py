"""Steps 1 and 3 of the paper (section 2), written straight from its formulas: slow and obvious.

One document, one position, one call, one token at a time, in float64; nothing is shared with the
code it checks but the records and the protocol of the model. Where the paper is silent, it makes
the choices that the modules state: places do not split a word, weights are renormalised where
fewer tokens are left.
"""

import math
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from toolformer_core.lm import LanguageModel, LossRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceVerdict:
    """L+, the two terms of L-, their difference in nats, and whether the call is kept."""

    loss_with_result: float
    loss_without_call: float
    loss_with_empty_result: float
    loss_reduction: float
    is_kept: bool


def reference_places(text: str, char_offsets: Sequence[int]) -> list[int]:
    """Token indices where a call may stand.

    Not behind a space, nor inside a word or a number; its sign, currency and % belong to a number.
    """
    places = []
    for token_index, c in enumerate(char_offsets):
        is_last_of_offset = (
            token_index + 1 == len(char_offsets) or char_offsets[token_index + 1] != c
        )
        behind_space = c > 0 and text[c - 1] == " "
        if is_last_of_offset and not behind_space and not _splits_atom(text, c):
            places.append(token_index)
    return places


def _splits_atom(text: str, c: int) -> bool:
    """Whether the characters at c - 1 and c belong to one word or number, such as -$1,000.5."""
    left, right = _kinds(text, c - 1), _kinds(text, c)
    if {"letter", "joint"} & left and {"letter", "joint"} & right:
        return True
    if {"sign", "point"} & left or ("currency" in left and "number" in right):
        return True
    if "digit" in left and "%" in right:
        return True
    # One space may part a number from its currency and from %.
    around = [(_kinds(text, a), _kinds(text, b)) for a, b in ((c - 2, c), (c - 1, c + 1))]
    has_space = [text[c - 1 : c] == " ", text[c : c + 1] == " "]
    return any(
        space and (("currency" in a and "number" in b) or ("digit" in a and "%" in b))
        for space, (a, b) in zip(has_space, around, strict=True)
    )


def _kinds(text: str, k: int) -> set[str]:
    """What the character at k can be in a word or number; nothing outside the text."""
    before, here, after = (text[j : j + 1] if j >= 0 else "" for j in (k - 1, k, k + 1))
    kinds = {"%"} if here == "%" else set()
    kinds |= {"letter"} if here.isalnum() else set()
    kinds |= {"digit", "number"} if here and here in "0123456789" else set()
    kinds |= {"currency"} if unicodedata.category(here or "x") == "Sc" else set()
    is_joint = here and here in ".,'\u2019" and before.isalnum() and after.isalnum()
    kinds |= {"joint"} if is_joint else set()
    starts_point = here == "." and after and after in "0123456789"
    kinds |= (
        {"point", "number"} if starts_point and not (before.isalnum() or before == "_") else set()
    )
    opens = not before or before.isspace() or before in "([{=:;,*/<>\"'"
    if here and here in "-+\u2212\u00b1" and opens and {"number", "currency"} & _kinds(text, k + 1):
        kinds |= {"sign"}
    return kinds


def reference_positions(
    probabilities: Sequence[float],
    places: Collection[int],
    sampling_threshold: float,
    max_positions: int,
) -> list[int]:
    """I = {i : p_i > tau_s}; the k highest if there are more; ties go to the earlier."""
    chosen: list[int] = []
    while len(chosen) < max_positions:
        left = [
            i for i in sorted(places) if i not in chosen and probabilities[i] > sampling_threshold
        ]
        if not left:
            break
        chosen.append(max(left, key=lambda i: probabilities[i]))
    return sorted(chosen)


def reference_weights(num_available: int, kind: str = "linear") -> list[float]:
    """w_t = w~_t / sum w~_s with w~_t = max(0, 1 - 0.2 t), over the tokens that exist.

    Flat: w~_t = 1 for the first five.
    """
    raw = [max(0.0, 1 - 0.2 * t) for t in range(num_available)]
    if kind == "flat":
        raw = [1.0 if t < 5 else 0.0 for t in range(num_available)]
    total = math.fsum(raw)
    return [weight / total for weight in raw]


def reference_loss(lm: LanguageModel, text: str, i: int, prefix: str) -> float:
    """L_i(z) = - sum_{j >= i} w_{j-i} log p_M(x_j | z, x_1..x_{j-1}); 0 if no token is left."""
    tokens = lm.tokenize(text)
    n = len(tokens.token_ids)
    total = 0.0
    for j, weight in zip(range(i, n), reference_weights(n - i), strict=True):
        if weight > 0:
            request = LossRequest(prefix=prefix, tokens=tokens, first=j, last=j + 1)
            [[negative_log_probability]] = lm.token_losses([request])
            total += weight * negative_log_probability
    return total


def reference_verdict(
    lm: LanguageModel, text: str, i: int, call: tuple[str, str, str], filtering_threshold: float
) -> ReferenceVerdict:
    """Whether L- - L+ >= tau_f; `call` is (tool, argument, result), free of brackets and arrows.

    z stands before x_1, parted from it by a line break.
    """
    tool, argument, result = call
    plus = reference_loss(lm, text, i, f"[{tool}({argument}) -> {result}]\n")
    without_call = reference_loss(lm, text, i, "")
    with_empty = reference_loss(lm, text, i, f"[{tool}({argument}) -> ]\n")
    minus = with_empty if with_empty < without_call else without_call
    is_finite = all(math.isfinite(loss) for loss in (plus, without_call, with_empty))
    return ReferenceVerdict(
        loss_with_result=plus,
        loss_without_call=without_call,
        loss_with_empty_result=with_empty,
        loss_reduction=minus - plus,
        is_kept=is_finite and minus - plus >= filtering_threshold,
    )
