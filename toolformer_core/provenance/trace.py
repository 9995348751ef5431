"""From a call back to what taught it: the calls of C* that are most like it, and all about them.

    similarity(a, b) = 2 M / (len(a) + len(b))

of two arguments without their quotes, M the characters that difflib matches in order: 1 for equal
arguments, 0 for such as have no character in common.
Choice: which training texts moved the weights how far is not known; what is told is which calls
the model saw that are spelled alike.
"""

import difflib
import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from toolformer_core.notation import unquote
from toolformer_core.provenance.model_card import NOT_STATED, source_licence
from toolformer_core.records import (
    AugmentedDocument,
    CallSpan,
    Document,
    ExecutedCall,
    FilterDecision,
    ScoredCall,
)

_EXCERPT_CHARS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingCall:
    """One call of C*, where it stands, who answered it and why it was kept; losses in nats."""

    tool: str
    argument: str
    result: str
    tool_version: str
    document_id: str
    source: str
    url: str | None
    date: str | None
    licence: str
    excerpt: str  # of the augmented text
    loss_without_call: float
    loss_with_empty_result: float | None  # None: it could not change the verdict
    loss_with_result: float
    loss_reduction: float
    filtering_threshold: float
    candidate_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """Records of the stages that C* was made from; those of other calls and texts do no harm."""

    documents: Iterable[Document]
    executed: Iterable[ExecutedCall]
    scored: Iterable[ScoredCall]
    decisions: Iterable[FilterDecision]


def training_calls(
    augmented: Sequence[AugmentedDocument], records: Records, licences: Mapping[str, str]
) -> list[TrainingCall]:
    """All calls in the augmented documents, in their order; `licences` are by document's source.

    Raises: KeyError if the records lack one.
    """
    wanted = {call.candidate_id for document in augmented for call in document.calls}
    texts = {document.document_id for document in augmented}
    documents = {one.document_id: one for one in records.documents if one.document_id in texts}
    executed = {one.candidate_id: one for one in records.executed if one.candidate_id in wanted}
    scored = {one.candidate_id: one for one in records.scored if one.candidate_id in wanted}
    decided = {one.candidate_id: one for one in records.decisions if one.candidate_id in wanted}
    return [
        TrainingCall(
            tool=call.tool,
            argument=call.argument,
            result=call.result,
            tool_version=executed[call.candidate_id].tool_version,
            document_id=document.document_id,
            source=document.source,
            url=documents[document.document_id].url,
            date=documents[document.document_id].date,
            licence=licences[document.source],
            excerpt=_excerpt(document, call),
            loss_without_call=scored[call.candidate_id].loss_without_call,
            loss_with_empty_result=scored[call.candidate_id].loss_with_empty_result,
            loss_with_result=scored[call.candidate_id].loss_with_result,
            loss_reduction=scored[call.candidate_id].loss_reduction,
            filtering_threshold=decided[call.candidate_id].filtering_threshold,
            candidate_id=call.candidate_id,
        )
        for document in augmented
        for call in document.calls
    ]


def nearest_calls(
    tool: str, argument: str, augmented: Iterable[AugmentedDocument], limit: int
) -> list[tuple[float, AugmentedDocument, CallSpan]]:
    """The calls of a tool most like the argument, the most similar first, with the similarity.

    Of equal ones the smaller candidate_id comes first.
    """
    matcher = difflib.SequenceMatcher(autojunk=False)
    matcher.set_seq2(unquote(argument))  # that of which difflib remembers the most
    known: dict[str, float] = {}

    def similarity(call: CallSpan) -> float:
        if call.argument not in known:
            matcher.set_seq1(unquote(call.argument))
            known[call.argument] = matcher.ratio()
        return known[call.argument]

    calls = (
        (document, call) for document in augmented for call in document.calls if call.tool == tool
    )
    found = ((similarity(call), document, call) for document, call in calls)
    return heapq.nsmallest(limit, found, key=lambda one: (-one[0], one[2].candidate_id))


def licence_of(source: str, sources: Iterable[str], stated: Mapping[str, str]) -> str:
    """The licence of a document by its source: a file's name, or the name of a data set.

    `sources` are the corpus's as the settings name them, `stated` the licences of some of them.
    """
    named = [
        name
        for name in sources
        if source in (name, name.partition("?")[0]) or fnmatchcase(source, PurePosixPath(name).name)
    ]
    found = {source_licence(name, stated) for name in named}
    return " or ".join(sorted(found)) or NOT_STATED


def _excerpt(document: AugmentedDocument, call: CallSpan) -> str:
    """The call with the text on both sides."""
    start = max(0, call.start - _EXCERPT_CHARS)
    return document.augmented_text[start : call.end + _EXCERPT_CHARS]
