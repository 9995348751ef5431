"""Step 4a: which kept calls are written, where, and the spans that take them out again."""

import pytest

from tests.support.builders import augmented_document, call_span, document, filter_decision
from toolformer_core.augment import (
    augment_documents,
    example_cutoffs,
    insert_calls,
    select_calls,
    strip_calls,
)
from toolformer_core.config.pipeline import AugmentConfig
from toolformer_core.records import DropReason

TEXT = document().text
DROPPED = {"kept": False, "drop_reason": DropReason.BELOW_THRESHOLD}


def decision(candidate_id, char_offset=35, loss_reduction=1.5, **fields):
    return filter_decision(
        candidate_id=candidate_id, char_offset=char_offset, loss_reduction=loss_reduction, **fields
    )


def chosen(decisions, **fields):
    return [d.candidate_id for d in select_calls(decisions, AugmentConfig(**fields))]


def test_insert_calls_one_call_is_written_in_place_with_exact_spans():
    decisions = [filter_decision(candidate_id="candidate-1", char_offset=35)]
    assert insert_calls(document(), decisions) == augmented_document()


def test_insert_calls_before_the_space_writes_its_own_space():
    [span] = (augmented := insert_calls(document(), [decision("a", char_offset=34)])).calls
    assert augmented.augmented_text[span.start : span.end] == " [Calculator(34 + 57) -> 91]"
    assert augmented.augmented_text == augmented_document().augmented_text


def test_insert_calls_several_calls_stand_in_text_order():
    calls = [
        decision("a", char_offset=0, tool="Calendar", argument="", result="Today."),
        decision("b", char_offset=34),
        decision("c", char_offset=len(TEXT)),
    ]
    augmented = insert_calls(document(), calls)
    assert augmented.augmented_text == (
        "[Calendar() -> Today.] She bought 34 apples and 57 pears, [Calculator(34 + 57) -> 91] "
        "91 pieces of fruit in all. [Calculator(34 + 57) -> 91]"
    )


def test_insert_calls_result_span_is_the_result_and_its_bracket():
    calls = [decision("a", char_offset=0), decision("b", char_offset=34, result="9]1")]
    augmented = insert_calls(document(), calls)
    results = [
        augmented.augmented_text[s.result_start : s.result_end].strip() for s in augmented.calls
    ]
    assert results == ["91]", "9\\]1]"]


def test_strip_calls_takes_the_calls_out():
    calls = [decision("a", char_offset=0), decision("b", char_offset=34)]
    assert strip_calls(insert_calls(document(), calls)) == TEXT


def test_strip_calls_leaves_calls_that_the_text_had_itself():
    text = "It said [Calculator(1) -> 2] there."
    calls = [decision("a", char_offset=7)]
    assert strip_calls(insert_calls(document(text=text), calls)) == text


def test_strip_calls_follows_the_spans_of_the_record():
    record = augmented_document(calls=(call_span(start=3, end=10),))
    assert strip_calls(record) == record.augmented_text[:3] + record.augmented_text[10:]


def test_select_calls_best_at_one_place_wins():
    assert chosen([decision("a", loss_reduction=1.0), decision("b", loss_reduction=2.0)]) == ["b"]


def test_select_calls_tie_goes_to_the_smaller_candidate_id():
    assert chosen([decision("b"), decision("a")]) == ["a"]


def test_select_calls_best_of_the_document_stand_in_text_order():
    decisions = [decision(f"c{k}", char_offset=10 * k, loss_reduction=k % 3) for k in range(6)]
    assert chosen(decisions, max_calls_per_document=3) == ["c1", "c2", "c5"]


def test_select_calls_of_two_tools_at_one_place_write_one():
    decisions = [
        decision("a", tool="Calendar", loss_reduction=2.0),
        decision("b", tool="Calculator", loss_reduction=1.0),
    ]
    assert chosen(decisions) == ["a"]


def test_example_cutoffs_are_the_last_reduction_that_fits_per_tool():
    decisions = [decision(str(k), loss_reduction=float(k)) for k in range(5)]
    decisions += [decision("x", tool="Calendar", loss_reduction=0.25)]
    cutoffs = example_cutoffs(decisions, AugmentConfig(max_examples_per_tool=2))
    assert cutoffs == {"Calculator": 3.0, "Calendar": 0.25}


def test_example_cutoffs_ignore_dropped_calls():
    decisions = [decision("a", loss_reduction=9.0, **DROPPED)]
    assert example_cutoffs(decisions, AugmentConfig()) == {}


def test_augment_documents_without_kept_call_are_left_out():
    documents = [document(document_id=name) for name in "abc"]
    decisions = [decision("1", document_id="b"), decision("2", document_id="c", **DROPPED)]
    augmented = augment_documents(documents, decisions, {"Calculator": 0.0}, AugmentConfig())
    assert [a.document_id for a in augmented] == ["b"]


@pytest.mark.parametrize(("cutoff", "expected"), [(1.5, ["a"]), (1.51, [])])
def test_augment_documents_at_the_cutoff_is_written_below_it_is_not(cutoff, expected):
    augmented = augment_documents(
        [document()], [decision("a")], {"Calculator": cutoff}, AugmentConfig()
    )
    assert [span.candidate_id for a in augmented for span in a.calls] == expected


def test_augment_documents_merges_the_calls_of_all_tools():
    decisions = [
        decision("a", char_offset=34),
        decision("b", char_offset=0, tool="Calendar", argument="", result="Today."),
    ]
    [augmented] = augment_documents(
        [document()], decisions, {"Calculator": 1.0, "Calendar": 1.0}, AugmentConfig()
    )
    assert [span.tool for span in augmented.calls] == ["Calendar", "Calculator"]
