"""Taking the calls out of an augmented document gives the original, whatever was put in."""

from hypothesis import given
from hypothesis import strategies as st

from tests.support.builders import document, filter_decision
from toolformer_core.augment import augment_documents, example_cutoffs, insert_calls, strip_calls
from toolformer_core.config.pipeline import AugmentConfig
from toolformer_core.notation import parse_call

ANY = st.text() | st.text(alphabet="[]()\\-> \n7a", max_size=40)
PIECE = st.text(alphabet="[]()\\-> \n7a\U0001f600", max_size=8)


@st.composite
def documents_with_calls(draw):
    text = draw(ANY)
    offsets = draw(st.sets(st.integers(0, len(text)), max_size=6))
    calls = [
        filter_decision(
            candidate_id=str(offset),
            tool=draw(st.sampled_from(["Calculator", "Calendar"])),
            char_offset=offset,
            argument=draw(PIECE),
            result=draw(PIECE),
        )
        for offset in sorted(offsets)
    ]
    return document(text=text), calls


@given(documents_with_calls())
def test_strip_calls_undoes_insert_calls(case):
    doc, calls = case
    assert strip_calls(insert_calls(doc, calls)) == doc.text


@given(documents_with_calls())
def test_insert_calls_spans_are_the_calls_in_order_and_apart(case):
    doc, calls = case
    augmented = insert_calls(doc, calls)
    reached = 0
    for call, span in zip(calls, augmented.calls, strict=True):
        assert (
            reached
            <= span.start
            < span.result_start
            < span.result_end
            <= span.end
            <= len(augmented.augmented_text)
        )
        reached = span.end
        written = parse_call(augmented.augmented_text[span.start : span.end].strip(" "))
        assert (written.tool, written.argument, written.result) == (
            call.tool,
            call.argument,
            call.result,
        )


@given(documents_with_calls())
def test_insert_calls_spans_lie_at_their_offset_of_the_original(case):
    doc, calls = case
    augmented = insert_calls(doc, calls)
    num_inserted = 0
    for span in augmented.calls:
        assert span.start - num_inserted == span.char_offset
        num_inserted += span.end - span.start
    assert len(augmented.augmented_text) == len(doc.text) + num_inserted


@given(documents_with_calls())
def test_insert_calls_result_span_splits_the_models_part_from_the_tools(case):
    doc, calls = case
    text = (augmented := insert_calls(doc, calls)).augmented_text
    for call, span in zip(calls, augmented.calls, strict=True):
        model_part = text[span.start : span.result_start].lstrip(" ")
        tool_part = text[span.result_start : span.result_end]
        assert parse_call(model_part + "]").argument == call.argument
        assert parse_call(model_part + tool_part.rstrip(" ")).result == call.result
        assert parse_call("[QA() -> " + tool_part.rstrip(" ")).result == call.result


@given(
    reductions=st.lists(st.integers(0, 9), min_size=1, max_size=30),
    max_examples=st.integers(1, 12),
    max_calls=st.integers(1, 5),
)
def test_augment_documents_write_the_best_calls_within_all_limits(
    reductions, max_examples, max_calls
):
    doc = document(text="x " * 10)
    config = AugmentConfig(max_examples_per_tool=max_examples, max_calls_per_document=max_calls)
    decisions = [
        filter_decision(candidate_id=f"{k:02d}", char_offset=k % 7, loss_reduction=float(r))
        for k, r in enumerate(reductions)
    ]
    cutoffs = example_cutoffs(decisions, config)
    [augmented] = augment_documents([doc], decisions, cutoffs, config)
    offsets = [span.char_offset for span in augmented.calls]
    assert offsets == sorted(set(offsets))
    assert len(offsets) <= max_calls
    written = [reductions[int(span.candidate_id)] for span in augmented.calls]
    assert max(written) == max(reductions)
    enough = sorted(reductions, reverse=True)[:max_examples]
    assert min(written) >= min(enough)


@given(documents_with_calls(), st.randoms(use_true_random=False))
def test_augment_documents_do_not_depend_on_the_order_of_decisions(case, rng):
    doc, calls = case
    shuffled = rng.sample(calls, len(calls))
    cutoffs = {"Calculator": 0.0, "Calendar": 0.0}
    config = AugmentConfig(max_calls_per_document=3)
    assert augment_documents([doc], shuffled, cutoffs, config) == augment_documents(
        [doc], calls, cutoffs, config
    )
