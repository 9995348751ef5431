"""Step 4a, the augmented corpus C* (paper, section 2, "Model Finetuning").

x* = x_1..x_{i-1}, e(c, r), x_i..x_n for every kept call, several per text. Texts without a kept
call are left out (footnote 4).
Choice: of several kept calls at one place, the one with the largest loss_reduction is written; the
paper does not say. Ties go to the smaller candidate_id.
"""

from collections.abc import Iterable, Mapping, Sequence

from toolformer_core.config.pipeline import AugmentConfig
from toolformer_core.notation import insertion, render_call_with_result
from toolformer_core.records import AugmentedDocument, CallSpan, Document, FilterDecision

STAGE_VERSION = 1


def example_cutoffs(decisions: Iterable[FilterDecision], config: AugmentConfig) -> dict[str, float]:
    """Per tool, the loss_reduction below which a kept call exceeds max_examples_per_tool."""
    reductions: dict[str, list[float]] = {}
    for decision in decisions:
        if decision.kept:
            reductions.setdefault(decision.tool, []).append(decision.loss_reduction)
    return {
        tool: sorted(values, reverse=True)[: config.max_examples_per_tool][-1]
        for tool, values in sorted(reductions.items())
    }


def augment_documents(
    documents: Sequence[Document],
    decisions: Iterable[FilterDecision],
    cutoffs: Mapping[str, float],
    config: AugmentConfig,
) -> list[AugmentedDocument]:
    """The documents that have at least one kept call, with their calls written in."""
    by_document: dict[str, list[FilterDecision]] = {}
    for decision in decisions:
        if decision.kept and decision.loss_reduction >= cutoffs[decision.tool]:
            by_document.setdefault(decision.document_id, []).append(decision)
    return [
        insert_calls(document, select_calls(by_document[document.document_id], config))
        for document in documents
        if document.document_id in by_document
    ]


def select_calls(
    decisions: Sequence[FilterDecision], config: AugmentConfig
) -> list[FilterDecision]:
    """The best call at each place, the best max_calls_per_document of these, in text order."""
    ranked = sorted(decisions, key=lambda d: (-d.loss_reduction, d.candidate_id))
    best: dict[int, FilterDecision] = {}
    for decision in ranked:
        best.setdefault(decision.char_offset, decision)
    chosen = list(best.values())[: config.max_calls_per_document]
    return sorted(chosen, key=lambda d: d.char_offset)


def insert_calls(document: Document, calls: Sequence[FilterDecision]) -> AugmentedDocument:
    """Write the calls (in text order, one per place) into the text."""
    pieces: list[str] = []
    spans: list[CallSpan] = []
    copied = length = 0
    for call in calls:
        kept_text = document.text[copied : call.char_offset]
        rendered = render_call_with_result(call.tool, call.argument, call.result)
        before, inserted, after = insertion(document.text, call.char_offset, rendered)
        start = length + len(kept_text)
        # The result begins behind "-> ": what the tool wrote, not the model.
        without_result = render_call_with_result(call.tool, call.argument, "").removesuffix("]")
        spans.append(
            CallSpan(
                candidate_id=call.candidate_id,
                tool=call.tool,
                argument=call.argument,
                result=call.result,
                char_offset=call.char_offset,
                start=start,
                end=start + len(before + inserted + after),
                result_start=start + len(before) + len(without_result),
                result_end=start + len(before) + len(inserted),
            )
        )
        pieces += [kept_text, before, inserted, after]
        copied, length = call.char_offset, spans[-1].end
    pieces.append(document.text[copied:])
    return AugmentedDocument(
        document_id=document.document_id,
        source=document.source,
        original_text=document.text,
        augmented_text="".join(pieces),
        calls=tuple(spans),
    )


def strip_calls(augmented: AugmentedDocument) -> str:
    """The original text, from the augmented text and its spans."""
    pieces, reached = [], 0
    for span in augmented.calls:
        pieces.append(augmented.augmented_text[reached : span.start])
        reached = span.end
    pieces.append(augmented.augmented_text[reached:])
    return "".join(pieces)
