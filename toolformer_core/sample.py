"""Step 1, sampling API calls (paper, section 2, "Sampling API Calls").

    p_i = p_M(<API> | P(x), x_1..x_{i-1})      for i = 1..n+1
    I   = the max_positions likeliest i with p_i > sampling_threshold
    c   ~ M( . | P(x), x_1..x_{i-1}, <API>)    samples_per_position times, up to </API>

Choice: a position must be a place where text can be inserted (notation.is_place), and not inside a
character.
Departs: the tool's name is written for the model instead of sampled (config force_tool_name), and
places where no call can be right are left out before the choice (config look_ahead_guard).
"""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from toolformer_core.config.pipeline import TokenWeights, ToolSampleConfig
from toolformer_core.errors import ConfigError, NotationError
from toolformer_core.heuristics import document_rule
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
from toolformer_core.notation import END, START, inner_offsets, insertion, parse_call
from toolformer_core.records import Document, DropReason, ProposedCall, digest
from toolformer_core.tools.base import Tool, context_of, looks_ahead

STAGE_VERSION = 3

_TOKENS_PER_READ = 12_288  # of what is read and continued together: memory goes with it
_SPARE_TOKENS = 16  # for the document start and the opening of a call
_MIN_WINDOW = 16
_COUNTS = (
    "documents",
    "documents_not_qualified",
    "documents_without_place",
    "documents_windowed",
    "positions",
    "positions_pruned",
)
_Scored = tuple[int, TokenWeights]  # how many tokens have weight, and which


@dataclass(frozen=True, slots=True, kw_only=True)
class _Window:
    """A document, or as much of it as fits, with the places where a call may be inserted."""

    document: Document
    start: int  # token index in the document
    tokens: TokenizedText  # of the window alone
    places: Mapping[int, int]  # token index in the window -> character offset in the document


@dataclass(frozen=True, slots=True, kw_only=True)
class _Position:
    """A chosen position of one window."""

    window: _Window
    window_index: int  # within the windows read together
    token_index: int  # within the window
    start_probability: float
    token_losses: tuple[float, ...]  # of the scored tokens without a call
    loss_without_call: float

    @property
    def char_offset(self) -> int:
        """Of the position, in the document."""
        return self.window.places[self.token_index]

    @property
    def document_token_index(self) -> int:
        """Of the position, in the document."""
        return self.window.start + self.token_index


def sample_calls(
    documents: Sequence[Document],
    lm: LanguageModel,
    tool: Tool,
    config: ToolSampleConfig,
    *,
    num_scored_tokens: int,
    token_weights: TokenWeights = "linear",
) -> tuple[list[ProposedCall], dict[str, int]]:
    """Sampled calls of one tool, dropped ones included with their reason, and counts.

    The counts are documents, those by the rule that they qualify by (rule_NAME) or not
    (documents_not_qualified), those without a place for a call, those cut into windows, positions
    (sampled) and positions_pruned; every sample is a row, so the calls by reason follow from the
    rows.
    Raises: ConfigError if the model's context is too short for the tool's prompt.
    """
    counts = Counter(dict.fromkeys(_COUNTS, 0))
    windows: list[_Window] = []
    overhead = _overhead(lm, tool, config)
    longest = _longest_window(lm, tool, overhead)
    for document in documents:
        counts["documents"] += 1
        rule = document_rule(config.document_heuristic, tool.name, document, config.seed)
        counts["documents_not_qualified" if rule is None else f"rule_{rule}"] += 1
        if rule is not None:
            found = _windows(document, lm, tool, longest, guard=config.look_ahead_guard)
            counts["documents_windowed"] += len(found) > 1
            usable = [window for window in found if window.places]
            counts["documents_without_place"] += not usable
            windows += usable
    calls: dict[int, list[ProposedCall]] = {}
    scored = (num_scored_tokens, token_weights)
    for group in _groups(windows, overhead):
        read = [windows[k] for k in group]
        sampled, counts_of_group = _sample_windows(read, lm, tool, config, scored)
        counts.update(counts_of_group)
        for index, call in sampled:
            calls.setdefault(group[index], []).append(call)
    return [call for k in sorted(calls) for call in calls[k]], dict(counts)


def _sample_windows(
    windows: Sequence[_Window],
    lm: LanguageModel,
    tool: Tool,
    config: ToolSampleConfig,
    scored: _Scored,
) -> tuple[list[tuple[int, ProposedCall]], dict[str, int]]:
    """The samples of windows that are read together, each with the index of its window.

    A function of its own, so that the reading is gone before the next one is made.
    """
    places = [window.places.keys() for window in windows]
    reading = lm.read(annotation_prompt(tool), [window.tokens for window in windows], places)
    positions, num_pruned = _positions(windows, reading, lm, config, scored)
    counts = {"positions": len(positions), "positions_pruned": num_pruned}
    return list(_sample_positions(positions, reading, tool, config)), counts


def _overhead(lm: LanguageModel, tool: Tool, config: ToolSampleConfig) -> int:
    """Tokens beside a text that is read: the prompt and a call."""
    prompt = annotation_prompt(tool)
    num_tokens = len(lm.tokenize(prompt.head + prompt.tail).token_ids)
    return num_tokens + config.max_call_tokens + _SPARE_TOKENS


def _longest_window(lm: LanguageModel, tool: Tool, overhead: int) -> int:
    """Tokens of a text that fit twice beside the prompt and a call."""
    longest = (lm.context_tokens - overhead) // 2
    if longest < _MIN_WINDOW:
        raise ConfigError(
            f"{tool.name}: the model's context of {lm.context_tokens} tokens leaves {longest} for "
            f"a text beside the prompt ({overhead} with a call); expected {_MIN_WINDOW} or more: "
            "use a model with a longer context, or a shorter prompt"
        )
    return longest


def _windows(
    document: Document, lm: LanguageModel, tool: Tool, longest: int, *, guard: bool
) -> list[_Window]:
    """The document in consecutive windows of about equal size; mostly it is one."""
    tokens = lm.tokenize(document.text)
    places = insertion_places(tokens, document, tool, guard=guard)
    count = len(tokens.token_ids)
    num_windows = max(1, -(-count // longest))
    borders = [count * k // num_windows for k in range(num_windows + 1)]
    return [
        _Window(
            document=document,
            start=start,
            tokens=tokens.window(start, end),
            # A border belongs to the window that holds what comes next.
            places={
                i - start: char_offset
                for i, char_offset in places.items()
                if start <= i < end or i == end == count
            },
        )
        for start, end in itertools.pairwise(borders)
    ]


def _groups(windows: Sequence[_Window], overhead: int) -> Iterator[list[int]]:
    """Indices of windows of like length, to be read together."""
    group: list[int] = []
    total = 0
    for k in sorted(range(len(windows)), key=lambda k: (len(windows[k].tokens.token_ids), k)):
        size = overhead + 2 * len(windows[k].tokens.token_ids)
        if group and total + size > _TOKENS_PER_READ:
            yield group
            group, total = [], 0
        group.append(k)
        total += size
    if group:
        yield group


def annotation_prompt(tool: Tool) -> AnnotationPrompt:
    """P(x) of a tool, split where the text stands."""
    head, tail = tool.prompt.split("{text}")
    return AnnotationPrompt(head=head, tail=tail)


def insertion_places(
    tokens: TokenizedText, document: Document, tool: Tool, *, guard: bool
) -> dict[int, int]:
    """Token index -> character offset of every place where a call may be inserted."""
    text, offsets, context = tokens.text, tokens.char_offsets, context_of(document)
    inside = set(inner_offsets(text))
    places = {}
    for token_index, char_offset in enumerate(offsets):
        is_inside_character = char_offset in offsets[token_index + 1 : token_index + 2]
        if is_inside_character or char_offset in inside or text[:char_offset].endswith(" "):
            continue
        if not guard or tool.can_help_at(text[:char_offset], text[char_offset:], context):
            places[token_index] = char_offset
    return places


def choose_positions(probabilities: Mapping[int, float], config: ToolSampleConfig) -> list[int]:
    """I: the likeliest places above tau_s, at most max_positions, in text order."""
    threshold = config.sampling_threshold
    above = [i for i, probability in probabilities.items() if probability > threshold]
    likeliest = sorted(above, key=lambda i: (-probabilities[i], i))
    return sorted(likeliest[: config.max_positions])


def _positions(
    windows: Sequence[_Window],
    reading: Reading,
    lm: LanguageModel,
    config: ToolSampleConfig,
    scored: _Scored,
) -> tuple[list[_Position], int]:
    """The chosen positions of all windows, and how many were pruned (prune_below)."""
    chosen = [
        (k, i)
        for k, probabilities in enumerate(reading.start_probabilities)
        for i in choose_positions(probabilities, config)
    ]
    requests = [_loss_request(windows[k].tokens, i, scored[0]) for k, i in chosen]
    positions = [
        _Position(
            window=windows[k],
            window_index=k,
            token_index=i,
            start_probability=reading.start_probabilities[k][i],
            token_losses=token_losses,
            loss_without_call=weighted_loss(token_losses, *scored),
        )
        for (k, i), token_losses in zip(chosen, lm.token_losses(requests), strict=True)
    ]
    # A loss that is not a number is not small: such a position goes on and is counted later.
    lowest = config.prune_below or 0.0
    left = [p for p in positions if not p.loss_without_call < lowest]
    return left, len(positions) - len(left)


def _loss_request(tokens: TokenizedText, token_index: int, num_scored_tokens: int) -> LossRequest:
    last = min(token_index + num_scored_tokens, len(tokens.token_ids))
    return LossRequest(prefix="", tokens=tokens, first=token_index, last=last)


def _sample_positions(
    positions: Sequence[_Position], reading: Reading, tool: Tool, config: ToolSampleConfig
) -> Iterator[tuple[int, ProposedCall]]:
    """All samples of the positions, in text order, each with the index of its window."""
    # Once its name is written, a call without an argument leaves nothing to sample.
    is_spelled_out = config.force_tool_name and not tool.takes_argument
    num_samples = 1 if is_spelled_out else config.samples_per_position
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
    seen: set[tuple[str, int, str]] = set()
    for (position, m), request, continuation in zip(wanted, requests, sampled, strict=True):
        text = request.start.lstrip(" ") + continuation.text
        argument, reason = (
            _parse(text, tool) if continuation.is_closed else (text, DropReason.NOT_CLOSED)
        )
        key = (position.window.document.document_id, position.document_token_index, argument)
        if reason is None and key in seen:
            reason = DropReason.DUPLICATE
        if reason is None and config.look_ahead_guard and _leaks(position, argument):
            reason = DropReason.LOOK_AHEAD
        seen.add(key)
        yield position.window_index, _proposed(position, m, tool, argument, reason)


def _leaks(position: _Position, argument: str) -> bool:
    text, at = position.window.document.text, position.char_offset
    return looks_ahead(argument, text[:at], text[at:])


def _request(
    position: _Position, sample: int, tool: Tool, config: ToolSampleConfig
) -> ContinuationRequest:
    document = position.window.document
    space, _, _ = insertion(document.text, position.char_offset, "")
    opening = f"{tool.name}(" if config.force_tool_name else ""
    document_id, token_index = document.document_id, position.document_token_index
    seed = digest(config.seed, "sample", tool.name, document_id, token_index, sample)
    return ContinuationRequest(
        document_index=position.window_index,
        token_index=position.token_index,
        start=f"{space}{START}{opening}",
        seed=int(seed, 16),
    )


def _proposed(
    position: _Position, sample: int, tool: Tool, argument: str, reason: DropReason | None
) -> ProposedCall:
    window = position.window
    document_id, token_index = window.document.document_id, position.document_token_index
    return ProposedCall(
        candidate_id=digest(document_id, token_index, tool.name, argument, sample),
        document_id=document_id,
        tool=tool.name,
        char_offset=position.char_offset,
        token_index=token_index,
        window_start=window.start,
        window_end=window.start + len(window.tokens.token_ids),
        start_probability=position.start_probability,
        sample_index=sample,
        argument=argument,
        loss_without_call=position.loss_without_call,
        token_losses_without_call=position.token_losses,
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
