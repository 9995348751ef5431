"""Step 1, sampling API calls (paper, section 2, "Sampling API Calls").

    p_i = p_M(<API> | P(x), x_1..x_{i-1})      for i = 1..n+1
    I   = the max_positions likeliest i with p_i > sampling_threshold
    c   ~ M( . | P(x), x_1..x_{i-1}, <API>)    samples_per_position times, up to </API>

Choice: a position must be a place where text can be inserted: not inside a word, a number or a
character, and not behind a space (the place before the space gives the same text).
Departs: the tool's name is written for the model instead of sampled (config force_tool_name), and
places where no call can be right are left out before the choice (config look_ahead_guard).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from toolformer_core.config import SampleConfig
from toolformer_core.errors import NotationError
from toolformer_core.lm import (
    AnnotationPrompt,
    Continuation,
    ContinuationRequest,
    LanguageModel,
    LossRequest,
    Reading,
    SamplingSettings,
    TokenizedText,
)
from toolformer_core.losses import weighted_loss
from toolformer_core.notation import END, START, insertion, parse_call
from toolformer_core.records import Document, DropReason, ProposedCall, digest
from toolformer_core.tools.base import Tool, context_of, looks_ahead

STAGE_VERSION = 1

_DOCUMENTS_PER_READ = 8
_COUNTS = (
    "documents",
    "documents_too_long",
    "documents_without_place",
    "positions",
    "positions_pruned",
)
_ATOM = re.compile(r"[^\W_]+(?:[.,'][^\W_]+)*")  # a word or a number, not to be split


@dataclass(frozen=True, slots=True, kw_only=True)
class _Position:
    """A chosen position of one document."""

    document: Document
    document_index: int  # within the documents read together
    token_index: int
    char_offset: int
    start_probability: float
    loss_without_call: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """A document with the places where a call may be inserted."""

    document: Document
    tokens: TokenizedText
    places: Mapping[int, int]  # token index -> character offset


def sample_calls(
    documents: Sequence[Document],
    lm: LanguageModel,
    tool: Tool,
    config: SampleConfig,
    *,
    num_scored_tokens: int,
) -> tuple[list[ProposedCall], dict[str, int]]:
    """Sampled calls of one tool, dropped ones included with their reason, and counts.

    `config` has its per-tool numbers resolved (config.for_tool). The counts are documents,
    documents_too_long, documents_without_place, positions (sampled) and positions_pruned; every
    sample is a row, so the calls by reason follow from the rows.
    """
    counts = dict.fromkeys(_COUNTS, 0)
    counts["documents"] = len(documents)
    prompt = annotation_prompt(tool)
    reserve = len(lm.tokenize(prompt.head + prompt.tail).token_ids) + config.max_call_tokens + 16
    candidates = []
    for document in documents:
        tokens = lm.tokenize(document.text)
        places = insertion_places(tokens, document, tool, guard=config.look_ahead_guard)
        if not places:
            counts["documents_without_place"] += 1
        elif reserve + 2 * len(tokens.token_ids) > lm.context_tokens:
            counts["documents_too_long"] += 1
        else:
            candidates.append(_Candidate(document=document, tokens=tokens, places=places))
    calls: list[ProposedCall] = []
    for first in range(0, len(candidates), _DOCUMENTS_PER_READ):
        group = candidates[first : first + _DOCUMENTS_PER_READ]
        reading = lm.read(prompt, [candidate.tokens for candidate in group])
        losses = _losses_without_call(group, lm, num_scored_tokens)
        positions, num_pruned = _positions(group, reading, losses, config)
        counts["positions"] += len(positions)
        counts["positions_pruned"] += num_pruned
        calls += _sample_positions(positions, reading, tool, config)
    return calls, counts


def annotation_prompt(tool: Tool) -> AnnotationPrompt:
    """P(x) of a tool, split where the text stands."""
    head, tail = tool.prompt.split("{text}")
    return AnnotationPrompt(head=head, tail=tail)


def insertion_places(
    tokens: TokenizedText, document: Document, tool: Tool, *, guard: bool
) -> dict[int, int]:
    """Token index -> character offset of every place where a call may be inserted."""
    text, offsets, context = tokens.text, tokens.char_offsets, context_of(document)
    inside = {c for atom in _ATOM.finditer(text) for c in range(atom.start() + 1, atom.end())}
    places = {}
    for token_index, char_offset in enumerate(offsets):
        is_inside_character = char_offset in offsets[token_index + 1 : token_index + 2]
        if is_inside_character or char_offset in inside or text[:char_offset].endswith(" "):
            continue
        if not guard or tool.can_help_at(text[:char_offset], text[char_offset:], context):
            places[token_index] = char_offset
    return places


def choose_positions(
    probabilities: Sequence[float], places: Mapping[int, int], config: SampleConfig
) -> list[int]:
    """I: the likeliest places above tau_s, at most max_positions, in text order."""
    threshold = config.sampling_threshold
    assert not isinstance(threshold, dict), "resolve the settings with config.for_tool first"
    above = [i for i in places if probabilities[i] > threshold]
    likeliest = sorted(above, key=lambda i: (-probabilities[i], i))
    return sorted(likeliest[: _scalar(config.max_positions)])


def _losses_without_call(
    group: Sequence[_Candidate], lm: LanguageModel, num_scored_tokens: int
) -> list[list[float]]:
    """L_i(eps) of every i, for each document; one forward pass per document."""
    nll = lm.token_losses(
        [
            LossRequest(prefix="", tokens=c.tokens, first=0, last=len(c.tokens.token_ids))
            for c in group
        ]
    )
    return [
        [
            weighted_loss(row[i : i + num_scored_tokens], num_scored_tokens)
            for i in range(len(row) + 1)
        ]
        for row in nll
    ]


def _positions(
    group: Sequence[_Candidate],
    reading: Reading,
    losses: Sequence[Sequence[float]],
    config: SampleConfig,
) -> tuple[list[_Position], int]:
    """The chosen positions of all documents, and how many were pruned (prune_below)."""
    chosen = [
        _Position(
            document=candidate.document,
            document_index=index,
            token_index=i,
            char_offset=candidate.places[i],
            start_probability=probabilities[i],
            loss_without_call=losses[index][i],
        )
        for index, (candidate, probabilities) in enumerate(
            zip(group, reading.start_probabilities, strict=True)
        )
        for i in choose_positions(probabilities, candidate.places, config)
    ]
    # A loss that is not a number is not small: such a position goes on and is counted later.
    positions = [p for p in chosen if not p.loss_without_call < config.prune_below]
    return positions, len(chosen) - len(positions)


def _sample_positions(
    positions: Sequence[_Position], reading: Reading, tool: Tool, config: SampleConfig
) -> list[ProposedCall]:
    """All samples of the positions, in text order."""
    # Once its name is written, a call without an argument leaves nothing to sample.
    is_spelled_out = config.force_tool_name and not tool.takes_argument
    num_samples = 1 if is_spelled_out else _scalar(config.samples_per_position)
    wanted = [(p, m) for p in positions for m in range(num_samples)]
    requests = [_request(position, m, tool, config) for position, m in wanted]
    settings = SamplingSettings(
        temperature=config.temperature,
        top_p=config.top_p,
        max_tokens=config.max_call_tokens,
        stop=END,
    )
    sampled = (
        [Continuation(text=")", is_closed=True)] * len(requests)
        if is_spelled_out
        else reading.continuations(requests, settings)
    )
    calls: list[ProposedCall] = []
    seen: set[tuple[str, int, str]] = set()
    for (position, m), request, continuation in zip(wanted, requests, sampled, strict=True):
        text = request.start.lstrip(" ") + continuation.text
        argument, reason = (
            _parse(text, tool)
            if continuation.is_closed
            else (
                text,
                DropReason.NOT_CLOSED,
            )
        )
        key = (position.document.document_id, position.token_index, argument)
        if reason is None and key in seen:
            reason = DropReason.DUPLICATE
        if reason is None and config.look_ahead_guard and _leaks(position, argument):
            reason = DropReason.LOOK_AHEAD
        seen.add(key)
        calls.append(_proposed(position, m, tool, argument, reason))
    return calls


def _leaks(position: _Position, argument: str) -> bool:
    text, at = position.document.text, position.char_offset
    return looks_ahead(argument, text[:at], text[at:])


def _request(
    position: _Position, sample: int, tool: Tool, config: SampleConfig
) -> ContinuationRequest:
    space, _, _ = insertion(position.document.text, position.char_offset, "")
    opening = f"{tool.name}(" if config.force_tool_name else ""
    document_id, token_index = position.document.document_id, position.token_index
    seed = digest(config.seed, "sample", tool.name, document_id, token_index, sample)
    return ContinuationRequest(
        document_index=position.document_index,
        token_index=position.token_index,
        start=f"{space}{START}{opening}",
        seed=int(seed, 16),
    )


def _proposed(
    position: _Position, sample: int, tool: Tool, argument: str, reason: DropReason | None
) -> ProposedCall:
    document_id, token_index = position.document.document_id, position.token_index
    return ProposedCall(
        candidate_id=digest(document_id, token_index, tool.name, argument, sample),
        document_id=document_id,
        tool=tool.name,
        char_offset=position.char_offset,
        token_index=token_index,
        start_probability=position.start_probability,
        sample_index=sample,
        argument=argument,
        loss_without_call=position.loss_without_call,
        drop_reason=reason,
    )


def _parse(text: str, tool: Tool) -> tuple[str, DropReason | None]:
    """The argument of a closed sample; the raw text and MALFORMED if it is no call of the tool."""
    try:
        call = parse_call(text + END)
    except NotationError:
        return text, DropReason.MALFORMED
    if call.tool != tool.name or call.result is not None:
        return text, DropReason.MALFORMED
    return call.argument.strip(), None


def _scalar(value: float | dict[str, float] | dict[str, int]) -> int:
    """A per-tool count that for_tool has resolved."""
    assert isinstance(value, int), "resolve the settings with config.for_tool first"
    return value
