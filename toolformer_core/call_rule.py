"""When the tuned model starts a call: the rule that held-out texts of its own corpus choose.

The paper fixes call_top_k = 10 (section 4.2). In how many places a k makes a model call depends on
the model: of a small one k = 10 starts calls nearly everywhere. Departs: we choose k, or a
threshold on p(<API>), after fine-tuning.

One teacher-forced pass over each text of C* that was held out, calls and results in it, gives
at every place where a call may start the rank and the probability of <API>, and for every call of
C* whether greedy decoding would write it exactly, from the name to the arrow. A rule starts a call
wherever it fires. With starts those in held-out texts of C*,

    precision = calls started in place and exact / starts
    recall    = calls started in place and exact / calls
    F1        = 2 exact / (starts + calls), their harmonic mean

the rule of the best F1 is chosen. What the rules start in held-out texts of C without a kept call
is counted beside it. No benchmark is looked at.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import TypeAdapter

from toolformer_core.config.pipeline import DecodeConfig, PipelineConfig
from toolformer_core.decoding.start_rule import is_call_start
from toolformer_core.evaluation.reliability import share_interval
from toolformer_core.lm import TokenizedText
from toolformer_core.records import AugmentedDocument, Document
from toolformer_core.sample import insertion_places
from toolformer_core.tools.calculator import Calculator
from toolformer_core.training.places import call_place

if TYPE_CHECKING:
    from toolformer_core.transformers_lm.adapter import HFLanguageModel, NextToken

STAGE_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRule:
    """One of the two settings that start a call, and its value."""

    setting: Literal["call_threshold", "call_top_k"]
    value: float

    def __str__(self) -> str:
        """As in "call_top_k = 1"."""
        return f"{self.setting} = {self.value:g}"

    def applied(self, config: DecodeConfig) -> DecodeConfig:
        """The decoding settings with this rule in force."""
        if self.setting == "call_top_k":
            return config.model_copy(update={"call_top_k": int(self.value), "call_threshold": None})
        # With call_top_k 0 calls are forbidden, whatever the threshold.
        top_k = config.call_top_k or None
        return config.model_copy(update={"call_top_k": top_k, "call_threshold": self.value})


RULES = (
    *(CallRule(setting="call_top_k", value=k) for k in (1, 2, 3, 5, 10)),
    *(CallRule(setting="call_threshold", value=p) for p in (0.5, 0.3, 0.2, 0.1, 0.05)),
)
"""Those that are tried; of equally good ones the first is chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A place of a text where a call may start: how near M* is to starting one, and C*'s call."""

    rank: int  # tokens likelier than the likeliest spelling of <API>
    probability: float  # p(<API>), all spellings together
    has_call: bool
    is_exact: bool = False  # whether greedy decoding would write that call


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleCount:
    """What a rule starts in held-out texts; low and high are Wilson's 95% bounds of the recall."""

    rule: CallRule
    num_calls: int  # of C*
    num_started: int  # calls of C* at whose place the rule fires
    num_exact: int  # of these, how many are written exactly
    num_false: int  # starts where C* has no call
    num_false_plain: int  # starts in texts without a kept call
    precision: float | None  # None: the rule never fires
    recall: float
    recall_low: float
    recall_high: float
    f1: float

    @property
    def num_starts(self) -> int:
        """In the texts of C*."""
        return self.num_started + self.num_false


@dataclass(frozen=True, slots=True, kw_only=True)
class CallChoice:
    """The rule in force, why, and what every rule gives; no counts where there was no call."""

    rule: CallRule
    reason: str
    num_texts: int  # held-out texts of C*
    num_plain_texts: int  # held-out texts of C without a kept call
    counts: tuple[RuleCount, ...]

    def __str__(self) -> str:
        """As in "call_top_k = 1, chosen on 23 held-out texts: 17 of 21 calls exact ..."."""
        for count in self.counts:
            if count.rule == self.rule and count.num_exact:
                return (
                    f"{self.rule}, chosen on {self.num_texts} held-out texts: {count.num_exact} of "
                    f"{count.num_calls} calls exact and in place, {count.num_false} false starts"
                )
        return f"{self.rule}: {self.reason}"


CHOICE = TypeAdapter(CallChoice)
"""Reads one that was written as JSON."""


def with_choice(config: PipelineConfig, choice: CallChoice | None) -> PipelineConfig:
    """The settings with calls that start as chosen."""
    if choice is None:
        return config
    decode = choice.rule.applied(config.evaluate.decode)
    evaluated = config.evaluate.model_copy(update={"decode": decode})
    return config.model_copy(update={"evaluate": evaluated})


def choose_call_rule(
    dev: Sequence[AugmentedDocument], plain: Sequence[AugmentedDocument], lm: "HFLanguageModel"
) -> CallChoice:
    """The rule of the best F1 on texts of C* that were not trained on.

    `plain` are texts of C without calls that were not trained on either; they decide nothing.
    """
    places = read_places(dev, lm)
    counts: tuple[RuleCount, ...] = ()
    if any(place.has_call for place in places):
        plain_places = read_places(plain, lm)
        counts = tuple(count_starts(rule, places, plain_places) for rule in RULES)
    rule, reason = best_rule(counts)
    return CallChoice(
        rule=rule,
        reason=reason,
        num_texts=len(dev),
        num_plain_texts=len(plain),
        counts=counts,
    )


def best_rule(counts: Sequence[RuleCount]) -> tuple[CallRule, str]:
    """The rule of the best F1, and why it; of equals that of fewer starts, then the first.

    Choice: where no rule gives an exact call nothing tells them apart, and the fewest starts would
    come to forbidding calls; greedy decoding it is then, as where there is no call to look at.
    """
    if not counts:
        return RULES[0], "no held-out text of C* has a call"
    best = min(counts, key=lambda count: (-count.f1, count.num_starts))
    if not best.num_exact:
        return RULES[0], "no held-out call of C* is written exactly"
    return best.rule, "best F1 on held-out texts of C*"


def count_starts(
    rule: CallRule, places: Sequence[Place], plain_places: Sequence[Place] = ()
) -> RuleCount:
    """What a rule starts at the places of texts of C*, of which one or more have a call."""
    config = rule.applied(DecodeConfig())

    def fires(place: Place) -> bool:
        return is_call_start(place.rank, place.probability, config)

    num_calls = sum(place.has_call for place in places)
    fired = [place for place in places if fires(place)]
    num_started = sum(place.has_call for place in fired)
    num_exact = sum(place.is_exact for place in fired)
    low, high = share_interval(num_exact, num_calls)
    return RuleCount(
        rule=rule,
        num_calls=num_calls,
        num_started=num_started,
        num_exact=num_exact,
        num_false=len(fired) - num_started,
        num_false_plain=sum(map(fires, plain_places)),
        precision=num_exact / len(fired) if fired else None,
        recall=num_exact / num_calls,
        recall_low=low,
        recall_high=high,
        f1=2 * num_exact / (len(fired) + num_calls),
    )


def read_places(documents: Sequence[AugmentedDocument], lm: "HFLanguageModel") -> list[Place]:
    """Every place of the texts where a call may start; of a text what the model's context takes."""
    texts = [_Text(document, lm) for document in documents]
    found = lm.next_tokens([(text.token_ids, text.asked) for text in texts])
    return [place for text, tokens in zip(texts, found, strict=True) for place in text.read(tokens)]


class _Text:
    """An augmented text as tokens behind the document start.

    A place, and all else here, is the index of the token behind which something is predicted.
    """

    def __init__(self, document: AugmentedDocument, lm: "HFLanguageModel") -> None:
        tokens = lm.tokenize(document.augmented_text)
        self.token_ids = [lm.document_start_id, *tokens.token_ids][: lm.context_tokens]
        calls = [call_place(tokens, call) for call in document.calls]
        # Each with the places where its tokens from the name to the arrow are predicted.
        self._calls = {s - 1: range(s, end) for s, end in calls if end < len(self.token_ids)}
        free = {*_outside_calls(document, tokens)} - {s - 1 for s, _ in calls}
        self._places = sorted({*self._calls, *(k for k in free if k < len(self.token_ids))})

    @property
    def asked(self) -> list[int]:
        """Where it matters what M would write."""
        return sorted({*self._places, *(j for call in self._calls.values() for j in call)})

    def read(self, found: "dict[int, NextToken]") -> Iterator[Place]:
        """The places with what M has there."""
        for k in self._places:
            call = self._calls.get(k)
            yield Place(
                rank=found[k].start_rank,
                probability=found[k].start_probability,
                has_call=call is not None,
                is_exact=call is not None
                and all(found[j].token_id == self.token_ids[j + 1] for j in call),
            )


def _outside_calls(document: AugmentedDocument, tokens: TokenizedText) -> Iterator[int]:
    """Token indices where the annotator may insert a call and the text has none."""
    text = Document(
        document_id=document.document_id,
        text=document.augmented_text,
        url=None,
        date=None,
        source=document.source,
    )
    # Without the guard no tool is asked.
    for k, offset in insertion_places(tokens, text, Calculator(), guard=False).items():
        if not any(call.start <= offset < call.end for call in document.calls):
            yield k
