"""How near a model comes to starting a call while calls are forbidden.

Up to its first call a row decodes as if there were none. So one pass with calls forbidden tells for
every call_top_k and every call_threshold whether an item calls: its lowest rank of <API> is below
the one, or its highest p(<API>) reaches the other.

Shape legend: B rows, S tokens that spell <API>, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from toolformer_core.config.pipeline import DecodeConfig
from toolformer_core.decoding.choice import choose
from toolformer_core.decoding.events import DecodeRequest
from toolformer_core.decoding.row import Row
from toolformer_core.errors import ConfigError
from toolformer_core.progress import tracked
from toolformer_core.tools.base import NO_DOCUMENT
from toolformer_core.transformers_lm.model import HFModel, length_buckets
from toolformer_core.transformers_lm.rows import open_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class StartTrace:
    """One prompt gone on with, calls forbidden; both figures over all places for a call."""

    answer: str
    lowest_rank: int  # tokens likelier than the likeliest spelling of <API>
    highest_probability: float  # p(<API>), all spellings together


@dataclass(slots=True)
class _Traced:
    """A row on its way."""

    row: Row
    lowest_rank: int
    highest_probability: float = 0.0


def trace_starts(lm: HFModel, prompts: Sequence[str], config: DecodeConfig) -> list[StartTrace]:
    """One trace per prompt, in their order.

    Raises: ConfigError for a prompt that is longer than the model's context.
    """
    encoded = [[lm.document_start_id, *lm.encode(prompt)] for prompt in prompts]
    traced = []
    for k, (prompt, prompt_ids) in enumerate(zip(prompts, encoded, strict=True)):
        if len(prompt_ids) >= lm.context_tokens:
            raise ConfigError(
                f"prompt of {len(prompt_ids)} tokens: {prompt[:40]!r}...; the model takes "
                f"{lm.context_tokens}, with what it generates; leave the item out"
            )
        request = DecodeRequest(prompt=prompt, context=NO_DOCUMENT, config=config)
        row = Row(k, request, prompt_ids, lm.tokenizer)
        traced.append(_Traced(row, lowest_rank=lm.model.config.get_text_config().vocab_size))
    lengths = [len(ids) + config.max_new_tokens for ids in encoded]
    batches = list(length_buckets(lengths, lm.token_budget))
    for batch in tracked(batches, "trace-starts", unit="bucket"):
        _trace_batch(lm, [traced[k] for k in batch])
    return [
        StartTrace(
            answer=one.row.answer,
            lowest_rank=one.lowest_rank,
            highest_probability=one.highest_probability,
        )
        for one in traced
    ]


@torch.inference_mode()
def _trace_batch(lm: HFModel, live: list[_Traced]) -> None:
    """Decode the rows to their ends, one forward pass per token."""
    slots = open_rows(lm)
    while live:
        logits_BV = slots.feed({one.row.ticket: one.row.pending for one in live})
        starts = _starts(logits_BV, torch.tensor(lm.start_ids, device=logits_BV.device))
        rows = [one.row for one in live]
        choices = choose(logits_BV, rows, lm.start_ids, can_call=False, forbids=True)
        for one, row, choice, (rank, probability) in zip(live, rows, choices, starts, strict=True):
            if row.is_place(choice.plain):
                one.lowest_rank = min(one.lowest_rank, rank)
                one.highest_probability = max(one.highest_probability, probability)
            _write(row, choice.plain, lm)
            if row.finish_reason is not None:
                row.release()
                slots.leave(row.ticket)
        live = [one for one in live if one.row.finish_reason is None]


def _starts(logits_BV: torch.Tensor, starts_S: torch.Tensor) -> list[tuple[int, float]]:
    """Rank and probability of <API> as the next token of each row."""
    logits_BS = logits_BV[:, starts_S]
    ranks_B = (logits_BV > logits_BS.amax(-1, keepdim=True)).sum(-1)
    log_sums_B = logits_BS.float().logsumexp(-1) - logits_BV.float().logsumexp(-1)
    return list(zip(ranks_B.tolist(), log_sums_B.exp().tolist(), strict=True))


def _write(row: Row, token: int, lm: HFModel) -> None:
    """Take a row one token further, as decoding does outside a call."""
    if token in (lm.tokenizer.eos_token_id, lm.document_start_id):
        row.finish_reason = "stop"
        return
    row.append(token)
    row.write(row.stream.push(token))
    is_full = row.num_chosen >= row.request.config.max_new_tokens
    if row.finish_reason is None and (is_full or row.num_tokens >= lm.context_tokens):
        row.finish_reason = "length"
