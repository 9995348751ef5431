"""The paper read literally, and what a good engineer writes by hand: the baselines of the bench.

Both draw each token by the rule and the seeds of the product (the vocabulary's cumulative
distribution at a seeded uniform number, by a logits processor), so that they propose the same calls
up to rounding; torch.multinomial would only make them slower.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList

from toolformer_core.calling.caller import run_call
from toolformer_core.config.pipeline import ExecuteConfig, SampleConfig, ScoreConfig
from toolformer_core.lm import SamplingSettings
from toolformer_core.losses import loss_reduction, weighted_loss
from toolformer_core.notation import END, render_call_with_result
from toolformer_core.records import Document, Outcome, digest
from toolformer_core.sample import annotation_prompt, choose_positions, insertion_places
from toolformer_core.tools.base import Tool, context_of
from toolformer_core.transformers_lm.adapter import HFLanguageModel
from toolformer_core.transformers_lm.drawing import draw

Call = tuple[str, int, str]
"""Document, token index and argument of a call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a baseline found: sampled calls with the margin of every one that has a result."""

    margins: dict[Call, float]
    num_samples: int


class _SeededDraw(LogitsProcessor):
    """Leaves one token per row: the one at the row's next uniform number."""

    def __init__(self, seeds: Sequence[int], settings: SamplingSettings) -> None:
        self._randoms = [random.Random(seed) for seed in seeds]
        self._settings = settings

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        drawn = draw(scores, [r.random() for r in self._randoms], self._settings)
        chosen = torch.full_like(scores, -torch.inf)
        chosen[torch.arange(len(drawn)), drawn] = 0
        return chosen


class TokenCounter:
    """Counts the tokens of all forward passes of a model, padding included."""

    def __init__(self, model: Any) -> None:  # Any: transformers has no common typed base
        self.tokens = 0
        self.passes = 0
        self._handle = model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, _: Any, args: Any, kwargs: Any) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        self.tokens += ids.numel()
        self.passes += 1

    def close(self) -> None:
        """Stop counting."""
        self._handle.remove()


def _places(
    lm: HFLanguageModel, document: Document, tool: Tool, config: SampleConfig
) -> tuple[list[int], list[int], list[int]]:
    """Token ids of the text, of the prompt before it is written again, and the chosen positions."""
    tokens = lm.tokenize(document.text)
    prompt = annotation_prompt(tool)
    text = list(tokens.token_ids)
    head = [lm.document_start_id, *lm.encode(prompt.head), *text, *lm.encode(prompt.tail)]
    logits = lm.model(torch.tensor([head + text]), logits_to_keep=len(text) + 1).logits[0].float()
    probabilities = logits.softmax(-1)[:, list(lm.start_ids)].sum(-1).tolist()
    places = insertion_places(tokens, document, tool, guard=config.look_ahead_guard)
    return text, head, choose_positions({i: probabilities[i] for i in places}, config)


def _generate(
    lm: HFLanguageModel, rows: Sequence[list[int]], seeds: Sequence[int], config: SampleConfig
) -> list[str | None]:
    """The text up to the closing bracket of each row; None where it does not close."""
    ids, mask = lm.pad_left(rows)
    settings = SamplingSettings(
        temperature=config.temperature,
        top_p=config.top_p,
        max_tokens=config.max_call_tokens,
        stop=END,
    )
    output = lm.model.generate(
        ids,
        attention_mask=mask,
        do_sample=False,
        logits_processor=LogitsProcessorList([_SeededDraw(seeds, settings)]),
        max_new_tokens=config.max_call_tokens,
        stop_strings=[END],
        tokenizer=lm.tokenizer,
        pad_token_id=lm.document_start_id,
    )
    texts = lm.tokenizer.batch_decode(output[:, ids.shape[1] :])
    return [text.split(END)[0] if END in text else None for text in texts]


def _seeds(document: Document, position: int, tool: Tool, config: SampleConfig) -> list[int]:
    parts = ("sample", tool.name, document.document_id, position)
    counts = range(int(str(config.samples_per_position)))
    return [int(digest(config.seed, *parts, m), 16) for m in counts]


def _opening(text: str, char_offset: int, tool: Tool) -> str:
    space = " " if char_offset and not text[char_offset - 1].isspace() else ""
    after_space = char_offset < len(text) and not text[char_offset].isspace()
    return ("" if after_space else space) + f"[{tool.name}("


def annotate(
    lm: HFLanguageModel,
    documents: Sequence[Document],
    tool: Tool,
    config: SampleConfig,
    *,
    is_batched: bool,
) -> Found:
    """Steps 1 to 3: a `generate` and losses one by one, or batched within each document."""
    margins: dict[Call, float] = {}
    num_samples = 0
    for document in documents:
        with torch.inference_mode():
            text, head, positions = _places(lm, document, tool, config)
            offsets = lm.tokenize(document.text).char_offsets
            rows, seeds = [], []
            for i in positions:
                opening = lm.encode(_opening(document.text, offsets[i], tool))
                own = _seeds(document, i, tool, config)
                rows.append([[*head, *text[:i], *opening]] * len(own))
                seeds.append(own)
            if is_batched:
                rows = [[row for group in rows for row in group]] if rows else []
                seeds = [[seed for group in seeds for seed in group]] if seeds else []
            sampled = [
                drawn
                for group, own in zip(rows, seeds, strict=True)
                for drawn in _generate(lm, group, own, config)
            ]
            num_samples += len(sampled)
            at = [i for i in positions for _ in range(len(sampled) // len(positions))]
            calls = list(_executed(document, tool, zip(at, sampled, strict=True)))
            score = _batched_margins if is_batched else _literal_margins
            for (i, argument, _), margin in zip(calls, score(lm, text, tool, calls), strict=True):
                margins[document.document_id, i, argument] = margin
    return Found(margins=margins, num_samples=num_samples)


def _executed(
    document: Document, tool: Tool, sampled: Iterable[tuple[int, str | None]]
) -> Iterator[tuple[int, str, str]]:
    """Position, argument and result of every call that has one."""
    for i, text in sampled:
        if text is not None and text.endswith(")"):
            argument = text[:-1].strip()
            answer = run_call(tool, argument, context_of(document), ExecuteConfig())
            if answer.outcome is Outcome.OK:
                yield i, argument, answer.result


def _prefixes(tool: Tool, argument: str, result: str) -> list[str]:
    separator = ScoreConfig().prefix_separator
    return [
        "",
        render_call_with_result(tool.name, argument, "") + separator,
        render_call_with_result(tool.name, argument, result) + separator,
    ]


def _literal_margins(
    lm: HFLanguageModel, text: list[int], tool: Tool, calls: Sequence[tuple[int, str, str]]
) -> Iterator[float]:
    """Three forward passes over the whole text per call."""
    for i, argument, result in calls:
        losses = []
        for prefix in _prefixes(tool, argument, result):
            before = [lm.document_start_id, *lm.encode(prefix)]
            logits_TV = lm.model(torch.tensor([before + text])).logits[0].float()
            logprobs_TV = logits_TV.log_softmax(-1)
            scored = range(i, min(i + 5, len(text)))
            nll = [-float(logprobs_TV[len(before) + j - 1, text[j]]) for j in scored]
            losses.append(weighted_loss(nll, 5))
        yield loss_reduction(*losses)


def _batched_margins(
    lm: HFLanguageModel, text: list[int], tool: Tool, calls: Sequence[tuple[int, str, str]]
) -> Iterator[float]:
    """Rows that end with the scored tokens, sixteen at a time, sorted by length."""
    rows: list[tuple[list[int], int]] = []
    for i, argument, result in calls:
        for prefix in _prefixes(tool, argument, result):
            before = [lm.document_start_id, *lm.encode(prefix)]
            rows.append(([*before, *text[: i + 5]], min(5, len(text) - i)))
    losses = [0.0] * len(rows)
    order = sorted(range(len(rows)), key=lambda k: len(rows[k][0]))
    for first in range(0, len(order), 16):
        batch = order[first : first + 16]
        ids, mask = lm.pad_left([rows[k][0] for k in batch])
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        logits = lm.model(ids, attention_mask=mask, position_ids=positions, logits_to_keep=6).logits
        logprobs_BTV = logits.float().log_softmax(-1)
        for k, logprobs_TV in zip(batch, logprobs_BTV, strict=True):
            row, width = rows[k]
            targets = row[len(row) - width :]
            nll = [-float(logprobs_TV[5 - width + t, token]) for t, token in enumerate(targets)]
            losses[k] = weighted_loss(nll, 5)
    for k in range(len(calls)):
        yield loss_reduction(*losses[3 * k : 3 * k + 3])
