"""Steps 1 to 3 of the paper on a real model, slow and obvious.

One document, one position, one sample and one token at a time: every probability and every loss
comes from a full forward pass in float64 over the whole sequence, with no cache, no batch, no
padding and no mask. Of the product it uses the tokenizer's conventions (P(x) is head + x + tail,
followed by x again), the seeds of the samples, and the notation.
"""

import copy
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from tests.support.reference import reference_places, reference_positions, reference_weights
from toolformer_core.config.pipeline import SampleConfig, ScoreConfig
from toolformer_core.errors import NotationError, ToolInputRejected
from toolformer_core.notation import END, parse_call, render_call_with_result
from toolformer_core.records import Document, digest
from toolformer_core.tools.base import TEXT_PARAMETER, context_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceCall:
    """One distinct call that the tool answered, with its losses in nats."""

    document_id: str
    token_index: int
    argument: str
    result: str
    loss_without_call: float
    loss_with_empty_result: float
    loss_with_result: float

    @property
    def margin(self) -> float:
        """L- minus L+."""
        return min(self.loss_without_call, self.loss_with_empty_result) - self.loss_with_result


class ReferenceAnnotator:
    """The paper's steps for one tool."""

    def __init__(self, lm, tool, config: SampleConfig, score: ScoreConfig | None = None) -> None:
        self.lm, self.tool, self.config, self.score = lm, tool, config, score or ScoreConfig()
        self.model = copy.deepcopy(lm.model).double()

    @torch.inference_mode()
    def probabilities_after(self, ids: Sequence[int]) -> torch.Tensor:
        """p_M( . | ids), float64."""
        output = self.model(input_ids=torch.tensor([list(ids)]), use_cache=False)
        return output.logits[0, -1].softmax(-1)

    def prompt_ids(self, token_ids: Sequence[int], i: int) -> list[int]:
        """P(x), x_1..x_{i-1}."""
        head, tail = self.tool.prompt.split("{text}")
        before = [self.lm.document_start_id, *self.lm.encode(head)]
        return [*before, *token_ids, *self.lm.encode(tail), *token_ids[:i]]

    def start_probability(self, token_ids: Sequence[int], i: int) -> float:
        """p_i, summed over the tokens that spell the opening bracket."""
        probabilities = self.probabilities_after(self.prompt_ids(token_ids, i))
        vocabulary = range(len(probabilities))
        starts = [v for v in vocabulary if self.lm.tokenizer.decode([v]).strip(" ") == "["]
        return sum(float(probabilities[v]) for v in starts)

    def positions(self, document: Document) -> dict[int, float]:
        """I, each with its p_i."""
        tokens = self.lm.tokenize(document.text)
        places = reference_places(document.text, tokens.char_offsets)
        if self.config.look_ahead_guard:
            context = context_of(document)
            cut = {i: tokens.char_offsets[i] for i in places}
            places = [
                i
                for i in places
                if self.tool.can_help_at(document.text[: cut[i]], document.text[cut[i] :], context)
            ]
        count = len(tokens.token_ids)
        found = [
            self.start_probability(tokens.token_ids, i) if i in places else 0.0
            for i in range(count + 1)
        ]
        threshold, most = self.config.sampling_threshold, self.config.max_positions
        return {i: found[i] for i in reference_positions(found, places, threshold, most)}

    def sample(self, document: Document, i: int, m: int) -> str | None:
        """The m-th sample at i up to its closing bracket; None if it does not close."""
        tokens = self.lm.tokenize(document.text)
        space, _ = spaces_at(document.text, tokens.char_offsets[i])
        opening = f"{space}[{self.tool.name}(" if self.config.force_tool_name else f"{space}["
        ids = [*self.prompt_ids(tokens.token_ids, i), *self.lm.encode(opening)]
        parts = ("sample", self.tool.name, document.document_id, i, m)
        draw = random.Random(int(digest(self.config.seed, *parts), 16))
        chosen: list[int] = []
        while len(chosen) < self.config.max_call_tokens:
            chosen.append(self.next_token(ids + chosen, draw.random()))
            text = self.lm.tokenizer.decode(chosen)
            if END in text:
                return opening.lstrip(" ") + text.split(END)[0]
            if chosen[-1] == self.lm.tokenizer.eos_token_id:
                return None
        return None

    def next_token(self, ids: Sequence[int], uniform: float) -> int:
        """The first token at which the cumulative probability passes the uniform number."""
        probabilities = self.probabilities_after(ids)
        sharpened = (probabilities.log() / self.config.temperature).softmax(-1)
        total = 0.0
        for token, probability in enumerate(sharpened.tolist()):
            total += probability
            if total > uniform:
                return token
        return len(sharpened) - 1

    def loss(self, document: Document, i: int, call: str) -> float:
        """L_i(z), where z is the call (or nothing) before x_1, or in the text at i."""
        tokens = self.lm.tokenize(document.text)
        token_ids = tokens.token_ids
        before, after = [self.lm.document_start_id], []
        if call and self.score.prefix_position == "before_text":
            before += self.lm.encode(f"{call}\n")
        elif call:
            left, right = spaces_at(document.text, tokens.char_offsets[i])
            after = self.lm.encode(f"{left}{call}{right}")
        total = 0.0
        weights = reference_weights(len(token_ids) - i, self.score.token_weights)
        for j, weight in zip(range(i, len(token_ids)), weights, strict=True):
            if weight > 0:
                seen = [*before, *token_ids[:i], *after, *token_ids[i:j]]
                total -= weight * float(self.probabilities_after(seen)[token_ids[j]].log())
        return total

    def calls(self, document: Document) -> Iterator[ReferenceCall]:
        """Every distinct answered call of the document, in order of position and sample."""
        for i in self.positions(document):
            seen = set()
            for m in range(self.config.samples_per_position):
                argument = self.argument(self.sample(document, i, m))
                if argument is None or argument in seen:
                    continue
                seen.add(argument)
                try:
                    result = self.tool.call(argument, context_of(document))
                except ToolInputRejected:
                    continue
                yield self.scored(document, i, argument, result)

    def scored(self, document: Document, i: int, argument: str, result: str) -> ReferenceCall:
        """The call at i with its losses."""
        name = self.tool.name
        empty, full = (render_call_with_result(name, argument, r) for r in ("", result))
        return ReferenceCall(
            document_id=document.document_id,
            token_index=i,
            argument=argument,
            result=result,
            loss_without_call=self.loss(document, i, ""),
            loss_with_empty_result=self.loss(document, i, empty),
            loss_with_result=self.loss(document, i, full),
        )

    def argument(self, text: str | None) -> str | None:
        """The argument of a sample that is a call of the tool."""
        try:
            call = parse_call(f"{text}{END}") if text is not None else None
        except NotationError:
            return None
        if call is None or call.tool != self.tool.name or call.result is not None:
            return None
        return call.argument.strip()


def spaces_at(text: str, at: int) -> tuple[str, str]:
    """The spaces that a call needs before and after it, to be parted from its neighbours."""
    left, right = text[:at], text[at:]
    starts = not left or left[-1].isspace()
    if not right or right[0].isspace():
        return ("" if starts else " ", "")
    return ("", " " if starts else "")


class Reverser:
    """A tool that answers anything with its reversal, so that many calls are scored."""

    name = "Reverse"
    description = "Reverses a text."
    version = "1"
    takes_argument = True
    parameters = TEXT_PARAMETER
    context_fields = ()
    example = None
    prompt = (
        "Insert calls.\nInput: 3 + 4 is 7.\nOutput: 3 + 4 is [Reverse(3 + 4)] 7.\n"
        "Input: {text}\nOutput: "
    )

    def call(self, argument, context):
        """The argument from its end to its beginning."""
        if not argument:
            raise ToolInputRejected("nothing to reverse")
        return argument[::-1]

    def can_help_at(self, before, after, context):
        """Behind the first eight characters."""
        return len(before) > 8

    def is_right(self, result, after):
        """Cannot be checked."""
