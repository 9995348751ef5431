"""A served model as the one that proposes calls; the base model scores them.

The server reads P(x) and continues it, over the OpenAI-compatible completions API (vLLM, llama.cpp,
llama-cpp-python). The base model, which is the one to be tuned, cuts texts into tokens and measures
losses, so that a call is kept because it helps the student. Where a server gives log-probabilities
of its prompt ("echo"), one request gives p_i at all places of a text; else each place is asked for
one token. With `scores` such a server measures the losses too; it must serve the base model itself.

Choice: p_i is the probability of <API> among the likeliest `num_logprobs` tokens, else 0: a server
tells no more.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

from toolformer_core.config.pipeline import ProposerConfig
from toolformer_core.errors import ConfigError
from toolformer_core.lm import (
    AnnotationPrompt,
    Continuation,
    ContinuationRequest,
    LanguageModel,
    LossRequest,
    SamplingSettings,
    TokenizedText,
)
from toolformer_core.notation import START
from toolformer_core.served_lm.completions import Completion, CompletionsClient, ServedToken

_MAX_SEED = 2**31  # what servers take
_TOLERANCE = 0.2  # nats between one request and another; servers round


class ServedLanguageModel:
    """Adapter over a server that proposes and a local model that scores."""

    def __init__(
        self,
        client: CompletionsClient,
        local: LanguageModel,
        config: ProposerConfig,
        num_requests: int = 8,
    ) -> None:
        self.client = client
        self.config = config
        self._local = local
        self.pool = ThreadPoolExecutor(num_requests)

    @property
    def context_tokens(self) -> int:
        """Longest sequence that the local model takes; the server's must be as long."""
        return self._local.context_tokens

    def tokenize(self, text: str) -> TokenizedText:
        """The text as tokens of the local model."""
        return self._local.tokenize(text)

    def read(
        self,
        prompt: AnnotationPrompt,
        texts: Sequence[TokenizedText],
        places: Sequence[Collection[int]],
    ) -> "ServedReading":
        """Read every text as P(x) followed by x, on the server."""
        return ServedReading(self, prompt, texts, places)

    @cached_property
    def echoes(self) -> bool:
        """Whether the server gives log-probabilities of the prompt, and each at its own token.

        Some give at a token what they expect behind it; the same place asked for alone tells.
        """
        prompt = "One, two, three, four, five, six"
        try:
            echoed = [token for token in self.echo(prompt).values() if token.char_offset > 0]
        except ConfigError:
            return False
        if len(echoed) < 3:
            return False
        token = echoed[-2]
        expected, found = self.next_tokens(prompt[: token.char_offset]), token.alternatives
        if not expected or not found:
            return False
        likeliest = max(expected, key=lambda text: expected[text])
        return abs(found.get(likeliest, -math.inf) - expected[likeliest]) < _TOLERANCE

    def token_losses(self, requests: Sequence[LossRequest]) -> list[tuple[float, ...]]:
        """Negative log-likelihoods in nats, by the local model or, if so configured, the server.

        Raises: ConfigError if the server cannot score, or has other tokens than the local model.
        """
        if not self.config.scores:
            return self._local.token_losses(requests)
        if not self.echoes:
            raise ConfigError(
                f"proposer.scores: {self.client.url} gives no log-probabilities of its prompt, or "
                "not each at its own token; set proposer.scores=false"
            )
        prompts = [self._scored_prompt(request) for request in requests]
        distinct = list(
            dict.fromkeys(p for p, r in zip(prompts, requests, strict=True) if r.first < r.last)
        )
        echoed = dict(zip(distinct, self.pool.map(self.echo, distinct), strict=True))
        found = [
            self._losses(request, prompt, echoed.get(prompt, {}))
            for request, prompt in zip(requests, prompts, strict=True)
        ]
        unplaced = [k for k, losses in enumerate(found) if losses is None]
        local = self._local.token_losses([requests[k] for k in unplaced])
        by_index = dict(zip(unplaced, local, strict=True))
        return [by_index[k] if losses is None else losses for k, losses in enumerate(found)]

    def _scored_prompt(self, request: LossRequest) -> str:
        text, offsets = request.tokens.text, request.tokens.char_offsets
        at, end = offsets[request.prefix_before], offsets[request.last]
        return self.config.document_start + text[:at] + request.prefix + text[at:end]

    def _losses(
        self, request: LossRequest, prompt: str, echoed: Mapping[int, ServedToken]
    ) -> tuple[float, ...] | None:
        """Losses by the server's tokens; None where it is not certain which they are.

        In the midst of a text the server may join a prefix with its neighbours to other tokens.
        """
        offsets = request.tokens.char_offsets
        shift = len(prompt) - offsets[request.last]
        is_within = request.prefix_before > 0
        if is_within and shift - len(request.prefix) + offsets[request.prefix_before] not in echoed:
            return None
        losses = []
        for j in range(request.first, request.last):
            at, expected = shift + offsets[j], request.tokens.text[offsets[j] : offsets[j + 1]]
            covering = [
                t for t in echoed.values() if t.char_offset <= at < t.char_offset + len(t.text)
            ]
            if not covering or not expected:  # inside a character there is more than one token
                return None
            if (covering[0].char_offset, covering[0].text) != (at, expected):
                if is_within:
                    return None
                raise ConfigError(
                    f"proposer.scores: {self.client.model} does not cut the text at {expected!r} "
                    "as the base model does; set proposer.scores=false"
                )
            losses.append(-covering[0].logprob)
        return tuple(losses)

    def echo(self, prompt: str) -> dict[int, ServedToken]:
        """The tokens of a prompt and the one after it, by the character at which they start."""
        tokens = self._one_token(prompt, echo=True).tokens
        return {token.char_offset: token for token in tokens}

    def next_tokens(self, prompt: str) -> Mapping[str, float]:
        """The likeliest next tokens with their log-probabilities."""
        tokens = self._one_token(prompt).tokens
        return tokens[-1].alternatives if tokens else {}

    def _one_token(self, prompt: str, **settings: bool) -> Completion:
        return self.client.complete(
            prompt, max_tokens=1, logprobs=self.config.num_logprobs, temperature=0.0, **settings
        )


class ServedReading:
    """Documents read by a server; nothing of them is kept here but their text."""

    def __init__(
        self,
        lm: ServedLanguageModel,
        prompt: AnnotationPrompt,
        texts: Sequence[TokenizedText],
        places: Sequence[Collection[int]],
    ) -> None:
        self._lm = lm
        start = lm.config.document_start
        self._before = [f"{start}{prompt.head}{x.text}{prompt.tail}" for x in texts]
        self._texts = texts
        self.start_probabilities = [self._probabilities(k, own) for k, own in enumerate(places)]

    def _prompt(self, document_index: int, token_index: int) -> str:
        """P(x), x_1..x_{i-1}."""
        tokens = self._texts[document_index]
        return self._before[document_index] + tokens.text[: tokens.char_offsets[token_index]]

    def _probabilities(self, document_index: int, places: Collection[int]) -> dict[int, float]:
        prompts = {i: self._prompt(document_index, i) for i in places}
        whole = self._before[document_index] + self._texts[document_index].text
        echoed = self._lm.echo(whole) if self._lm.echoes else {}
        known = {
            i: echoed[len(prompt)].alternatives
            for i, prompt in prompts.items()
            if len(prompt) in echoed
        }
        # Also where the server cuts the text into other tokens than the local model.
        asked = [i for i in places if i not in known]
        known |= zip(
            asked, self._lm.pool.map(self._lm.next_tokens, map(prompts.get, asked)), strict=True
        )
        return {i: start_probability(known[i]) for i in places}

    def continuations(
        self, requests: Sequence[ContinuationRequest], settings: SamplingSettings
    ) -> list[Continuation]:
        """One sampled continuation per request, several at a time."""

        def sample(request: ContinuationRequest) -> Continuation:
            prompt = self._prompt(request.document_index, request.token_index)
            answer = self._lm.client.complete(
                prompt + request.start,
                max_tokens=settings.max_tokens,
                temperature=settings.temperature,
                top_p=settings.top_p,
                stop=[settings.stop],
                seed=request.seed % _MAX_SEED,
            )
            return Continuation(text=answer.text, is_closed=answer.is_stopped)

        return list(self._lm.pool.map(sample, requests))


def start_probability(alternatives: Mapping[str, float]) -> float:
    """Probability of the tokens that spell a call's start, with and without leading spaces."""
    return math.fsum(
        math.exp(logprob) for text, logprob in alternatives.items() if text.strip(" ") == START
    )
