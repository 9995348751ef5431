"""The next token of every row, and whether a call starts there (paper, section 4.2).

Shape legend: B rows, S tokens that spell <API>, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from toolformer_core.decoding.row import Row
from toolformer_core.decoding.start_rule import is_call_start
from toolformer_core.lm import SamplingSettings
from toolformer_core.transformers_lm.drawing import draw


@dataclass(frozen=True, slots=True)
class Choice:
    """The next token if no call starts, and the start of a call if one does."""

    plain: int
    start: int | None


def choose(
    logits_BV: torch.Tensor,
    rows: Sequence[Row],
    start_ids: Sequence[int],
    *,
    can_call: bool,
    forbids: bool,
) -> list[Choice]:
    """One choice per row; overwrites the logits.

    `can_call`: there are tools. `forbids`: <API> is chosen as the start of a call or not at all
    (the paper's "disabled", footnote 5).
    """
    starts: list[int | None] = [None] * len(rows)
    wanting = [k for k, row in enumerate(rows) if can_call and _may_call(row)]
    starts_S = torch.tensor(start_ids, device=logits_BV.device)
    if wanting:
        for k, start in zip(wanting, _starts(logits_BV, rows, wanting, starts_S), strict=True):
            starts[k] = start
    outside = [k for k, row in enumerate(rows) if row.call is None] if forbids else []
    if outside:
        # A call's own text is free.
        outside_B1 = torch.tensor(outside, device=logits_BV.device)[:, None]
        logits_BV[outside_B1, starts_S] = -torch.inf
    return [
        Choice(plain, start) for plain, start in zip(_draw(logits_BV, rows), starts, strict=True)
    ]


def _may_call(row: Row) -> bool:
    config = row.request.config
    return row.call is None and config.top_k > 0 and row.num_calls < config.max_calls


def _starts(
    logits_BV: torch.Tensor, rows: Sequence[Row], wanting: Sequence[int], starts_S: torch.Tensor
) -> list[int | None]:
    """For the rows that may call: the likeliest spelling of <API> if a call starts, else None."""
    logits_BV = logits_BV if len(wanting) == len(rows) else logits_BV[wanting]
    logits_BS = logits_BV[:, starts_S]
    best_B1, which_B1 = logits_BS.max(-1, keepdim=True)
    ranks: list[int] = (logits_BV > best_B1).sum(-1).tolist()
    spellings: list[int] = starts_S[which_B1[:, 0]].tolist()
    configs = [rows[k].request.config for k in wanting]
    probabilities = [0.0] * len(wanting)
    if any(config.call_threshold is not None for config in configs):
        log_sums_B = logits_BS.float().logsumexp(-1) - logits_BV.float().logsumexp(-1)
        probabilities = log_sums_B.exp().tolist()
    return [
        spelling if is_call_start(rank, probability, config) else None
        for spelling, rank, probability, config in zip(
            spellings, ranks, probabilities, configs, strict=True
        )
    ]


def _draw(logits_BV: torch.Tensor, rows: Sequence[Row]) -> list[int]:
    """The next token of every row, by its own settings and its own random numbers."""
    tokens: list[int] = logits_BV.argmax(-1).tolist()
    by_settings: dict[SamplingSettings, list[int]] = {}
    for k, row in enumerate(rows):
        config = row.request.config
        if config.temperature > 0:
            settings = SamplingSettings(
                temperature=config.temperature, top_p=config.top_p, max_tokens=1, stop=""
            )
            by_settings.setdefault(settings, []).append(k)
    for settings, members in by_settings.items():
        uniforms = [rows[k].draws.random() for k in members]
        drawn = draw(logits_BV[members], uniforms, settings)
        for k, token in zip(members, drawn, strict=True):
            tokens[k] = token
    return tokens
