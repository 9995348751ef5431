"""A `LanguageModel` without a model: tables say what it knows, a rule fills in the rest.

Tokens are words with the space before them, as in byte-pair vocabularies: "She bought 34." has the
tokens "She", " bought", " 34", ".". Every answer depends on its own request alone, never on what
else is in the batch. Where a table has no entry, numbers come from a digest of the request.
"""

import random
import re
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from toolformer_core.lm import (
    AnnotationPrompt,
    Continuation,
    ContinuationRequest,
    LossRequest,
    SamplingSettings,
    TokenizedText,
)
from toolformer_core.records import digest

_TOKEN = re.compile(r" ?\w+| ?[^\w\s]+|\s")  # every character belongs to exactly one match
_MAX_LOSS = 6.0
_CONTINUATIONS = (
    "1 + 2)]",
    "3 * 4)] and more",
    "1 + 2)]",  # twice, so that samples of one position repeat
    "10 / 4) -> 2.50]",  # wrote its own result
    "7 - 5]",  # no bracket
    "8 + 8)",  # never closed
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedLM:
    """What the model says.

    start_probabilities: text -> p_i for i = 0..n.
    losses: (prefix z, text) -> losses of x_1..x_n in nats.
    continuations: (text, token index) -> what may follow the start of a call there, written out
        with its "]"; a request's seed picks one. Without "]" it is not closed.
    """

    start_probabilities: Mapping[str, Sequence[float]] = field(default_factory=dict)
    losses: Mapping[tuple[str, str], Sequence[float]] = field(default_factory=dict)
    continuations: Mapping[tuple[str, int], Sequence[str]] = field(default_factory=dict)
    context_tokens: int = 1_000_000

    def tokenize(self, text: str) -> TokenizedText:
        """The words of the text; concatenated they are the text."""
        words = list(_TOKEN.finditer(text))
        return TokenizedText(
            text=text,
            token_ids=tuple(zlib.crc32(word[0].encode("utf-8", "surrogatepass")) for word in words),
            char_offsets=(*(word.start() for word in words), len(text)),
        )

    def read(
        self,
        prompt: AnnotationPrompt,
        texts: Sequence[TokenizedText],
        places: Sequence[Collection[int]],
    ) -> "ScriptedReading":
        """A reading that answers from the tables; the prompt changes nothing."""
        return ScriptedReading(lm=self, texts=tuple(texts), places=tuple(map(tuple, places)))

    def token_losses(self, requests: Sequence[LossRequest]) -> list[tuple[float, ...]]:
        """Losses from the table, else by rule from the prefix and the text up to the token."""
        return [self._losses(request) for request in requests]

    def _losses(self, request: LossRequest) -> tuple[float, ...]:
        text, offsets = request.tokens.text, request.tokens.char_offsets
        known = self.losses.get((request.prefix, text))
        asked = range(request.first, request.last)
        if known is not None:
            return tuple(float(known[j]) for j in asked)
        return tuple(
            _MAX_LOSS * _fraction("loss", request.prefix, text[: offsets[j + 1]]) for j in asked
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedReading:
    """The texts of one batch."""

    lm: ScriptedLM
    texts: tuple[TokenizedText, ...]
    places: tuple[tuple[int, ...], ...]

    @property
    def start_probabilities(self) -> list[dict[int, float]]:
        """p_i from the table, else by rule from the text before i."""
        rows = [self._probabilities(tokens) for tokens in self.texts]
        return [{i: row[i] for i in own} for row, own in zip(rows, self.places, strict=True)]

    def _probabilities(self, tokens: TokenizedText) -> tuple[float, ...]:
        known = self.lm.start_probabilities.get(tokens.text)
        if known is not None:
            assert len(known) == len(tokens.char_offsets), "the table needs one p per position"
            return tuple(known)
        return tuple(_fraction("p", tokens.text[:offset]) for offset in tokens.char_offsets)

    def continuations(
        self, requests: Sequence[ContinuationRequest], settings: SamplingSettings
    ) -> list[Continuation]:
        """One continuation per request, picked by its seed."""
        return [self._continuation(request, settings) for request in requests]

    def _continuation(
        self, request: ContinuationRequest, settings: SamplingSettings
    ) -> Continuation:
        key = (self.texts[request.document_index].text, request.token_index)
        choices = self.lm.continuations.get(key, _CONTINUATIONS)
        text, stop, _ = random.Random(request.seed).choice(choices).partition(settings.stop)
        num_tokens = len(self.lm.tokenize(text + stop).token_ids)
        is_closed = bool(stop) and num_tokens <= settings.max_tokens
        return Continuation(text=text, is_closed=is_closed)


def _fraction(*parts: str) -> float:
    """A number in [0, 1) that the parts decide."""
    return int(digest(*parts), 16) / 16**16
