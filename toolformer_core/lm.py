"""What the method needs from a causal language model.

Three methods; each takes a batch, so that an adapter can share caches and forward passes inside
it. Tokens appear only as positions and character offsets: no stage sees a tensor.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizedText:
    """A text x_1..x_n and where each token starts; `char_offsets` ends with len(text)."""

    text: str
    token_ids: tuple[int, ...]
    char_offsets: tuple[int, ...]  # n + 1 entries, non-decreasing

    def window(self, first: int, last: int) -> "TokenizedText":
        """The tokens from `first` up to `last` as a text of their own."""
        offsets = self.char_offsets[first : last + 1]
        return TokenizedText(
            text=self.text[offsets[0] : offsets[-1]],
            token_ids=self.token_ids[first:last],
            char_offsets=tuple(offset - offsets[0] for offset in offsets),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotationPrompt:
    """P(x) = head + x + tail, after which the model rewrites x; the head is shared."""

    head: str
    tail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingSettings:
    """How continuations are drawn; `stop` ends one and is not part of it."""

    temperature: float
    top_p: float
    max_tokens: int
    stop: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ContinuationRequest:
    """One continuation of P(x), x_1..x_{i-1}, start, where `start` opens the call.

    `seed` alone decides the draws, whatever else is in the batch.
    """

    document_index: int
    token_index: int
    start: str
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """A sampled text, and whether it ended with the stop string."""

    text: str
    is_closed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LossRequest:
    """Ask for the losses of x_first..x_last-1 given prefix z and the tokens before.

    z stands before x_1, or before the token `prefix_before`, which is not behind x_first.
    Choice: z is turned into tokens on its own wherever it stands, and those of x stay as they are:
    the same tokens are scored with and without it.
    """

    prefix: str
    tokens: TokenizedText
    first: int
    last: int
    prefix_before: int = 0


class Reading(Protocol):
    """A batch of documents read under an annotation prompt, ready to be continued."""

    @property
    def start_probabilities(self) -> Sequence[Mapping[int, float]]:
        """p_i of every document at the places it was read for."""

    def continuations(
        self, requests: Sequence[ContinuationRequest], settings: SamplingSettings
    ) -> list[Continuation]:
        """One sampled continuation per request, in their order."""


class LanguageModel(Protocol):
    """A causal language model M."""

    @property
    def context_tokens(self) -> int:
        """Longest sequence it takes."""

    def tokenize(self, text: str) -> TokenizedText:
        """The text as M's tokens, without special tokens."""

    def read(
        self,
        prompt: AnnotationPrompt,
        texts: Sequence[TokenizedText],
        places: Sequence[Collection[int]],
    ) -> Reading:
        """Read every text as P(x) followed by x.

        `places` are the token indices, 0..n, at which a call of the text may start.
        """

    def token_losses(self, requests: Sequence[LossRequest]) -> list[tuple[float, ...]]:
        """Negative log-likelihoods in nats, one tuple per request."""
