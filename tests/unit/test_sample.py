"""Step 1 on a scripted model: which positions, which calls, and why the others are dropped."""

import itertools
import math
import weakref
from collections import Counter

import pytest

from tests.support.builders import document
from tests.support.reference import reference_loss, reference_places, reference_positions
from tests.support.scripted_lm import ScriptedLM
from toolformer_core.config.pipeline import SampleConfig
from toolformer_core.errors import ConfigError
from toolformer_core.lm import TokenizedText
from toolformer_core.records import DropReason
from toolformer_core.sample import (
    annotation_prompt,
    choose_positions,
    insertion_places,
    sample_calls,
)
from toolformer_core.tools.calculator import Calculator
from toolformer_core.tools.calendar import Calendar

TEXT = "Of 34 and 57 the sum is 91 ."  # tokens: Of 34 and 57 the sum is 91 .
DOCUMENT = document(text=TEXT)
SUM, OF = 7, 1  # token indices of " 91" and " 34"


class HelpfulAnywhere(Calculator):
    """A tool that sees no place where it cannot help."""

    def can_help_at(self, before, after, context):
        return True


class HelpfulBeforeIs(Calculator):
    """A tool that helps at one place only, in the documents of one day."""

    def can_help_at(self, before, after, context):
        return (before[-4:], after[:3], context.date) == (" sum", " is", "2021-03-04")


def settings(**fields):
    defaults = {
        "sampling_threshold": 0.5,
        "max_positions": 5,
        "samples_per_position": 1,
        "look_ahead_guard": False,
    }
    return SampleConfig(**{**defaults, **fields})


def probabilities(*chosen, text=TEXT):
    return {text: [0.9 if i in chosen else 0.1 for i in range(len(text.split()) + 1)]}


def sample(continuations, *, chosen=(SUM,), tool=None, doc=DOCUMENT, **fields):
    lm = ScriptedLM(
        start_probabilities=probabilities(*chosen, text=doc.text),
        continuations={(doc.text, i): texts for i, texts in continuations.items()},
    )
    return sample_calls([doc], lm, tool or Calculator(), settings(**fields), num_scored_tokens=5)


def one_call(*continuations, **fields):
    [call], _ = sample({SUM: continuations}, **fields)
    return call


def places_of(text, offsets=None, guard=False, tool=None):
    lm = ScriptedLM()
    tokens = (
        lm.tokenize(text)
        if offsets is None
        else TokenizedText(text=text, token_ids=(0,) * (len(offsets) - 1), char_offsets=offsets)
    )
    return insertion_places(tokens, document(text=text), tool or Calculator(), guard=guard)


def test_insertion_places_of_plain_words_are_all_token_starts_and_the_end():
    assert places_of("She bought 34.") == {0: 0, 1: 3, 2: 10, 3: 13, 4: 14}


def test_insertion_places_leave_out_offsets_inside_a_word():
    # "wal|king 1|,000|.5 it|'|s" as sub-word tokens
    text = "walking 1,000.5 it's"
    assert places_of(text, offsets=(0, 3, 7, 9, 13, 15, 18, 19, 20)) == {0: 0, 2: 7, 5: 15, 8: 20}


def test_insertion_places_leave_out_offsets_behind_a_space():
    assert places_of("a b", offsets=(0, 1, 2, 3)) == {0: 0, 1: 1, 3: 3}


def test_insertion_places_use_the_last_token_that_starts_at_a_character():
    # One emoji in three byte tokens: only the place before it and the one behind it remain.
    assert places_of("x \U0001f600!", offsets=(0, 1, 3, 3, 3, 4)) == {0: 0, 1: 1, 4: 3, 5: 4}


def test_insertion_places_with_guard_are_those_where_the_tool_can_help():
    assert places_of(TEXT, guard=True, tool=HelpfulBeforeIs()) == {6: 20}


def test_insertion_places_without_guard_do_not_ask_the_tool():
    assert len(places_of(TEXT, tool=HelpfulBeforeIs())) == 10


@pytest.mark.parametrize(
    "text",
    [
        *("", "a", "it's 1,000.5 -- or 'x'. y", "a_b c_ d", "3.14.15, x", "  two  \n lines "),
        *("12 - 85 = -73", "(-4 + 2)", "12-85 of 2019-03", "3 * -4, +5", "-$5.50 or $ 5, US$ 30"),
        *(
            "40% of 1st, 40 % a",
            "= -.5",
            "\u2212\u20ac3 (\u20b950)",
            "COVID-19 -x",
            "$ apples, 5 $",
        ),
    ],
)
def test_insertion_places_equal_the_slow_reference_at_every_character(text):
    offsets = tuple(range(len(text) + 1))
    assert list(places_of(text, offsets=offsets)) == reference_places(text, offsets)


def at_all(probabilities):
    return dict(enumerate(probabilities))


def test_choose_positions_at_the_threshold_is_left_out():
    assert choose_positions(at_all([0.5, 0.500001, 0.4]), settings()) == [1]


def test_choose_positions_keeps_the_likeliest_in_text_order():
    config = settings(max_positions=3)
    assert choose_positions(at_all([0.6, 0.9, 0.7, 0.55, 0.8]), config) == [1, 2, 4]


def test_choose_positions_equal_probabilities_go_to_the_earlier():
    assert choose_positions(at_all([0.6, 0.7, 0.7, 0.7]), settings(max_positions=2)) == [1, 2]


def test_choose_positions_nan_probability_is_left_out():
    assert choose_positions(at_all([math.nan, 0.9]), settings()) == [1]


def test_choose_positions_threshold_zero_leaves_out_the_impossible():
    assert choose_positions(at_all([0.0, 1e-9]), settings(sampling_threshold=0.0)) == [1]


@pytest.mark.parametrize("max_positions", [1, 3, 20])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7])
def test_choose_positions_equal_the_slow_reference(threshold, max_positions):
    lm = ScriptedLM()
    tokens = lm.tokenize(TEXT)
    places = insertion_places(tokens, DOCUMENT, Calculator(), guard=False)
    [row] = lm.read(annotation_prompt(Calculator()), [tokens], [places]).start_probabilities
    config = settings(sampling_threshold=threshold, max_positions=max_positions)
    expected = reference_positions(row, list(places), threshold, max_positions)
    assert choose_positions(row, config) == expected


def test_sample_calls_good_sample_is_proposed():
    call = one_call("34 + 57)]")
    assert (call.argument, call.drop_reason) == ("34 + 57", None)
    assert (call.tool, call.document_id, call.sample_index) == ("Calculator", "document-1", 0)
    assert (call.token_index, call.char_offset, call.start_probability) == (SUM, 23, 0.9)


def test_sample_calls_argument_is_stripped():
    assert one_call(" 34 + 57 )]").argument == "34 + 57"


def test_sample_calls_without_closing_bracket_is_not_closed():
    call = one_call("34 + 57) and so on")
    assert call.drop_reason is DropReason.NOT_CLOSED
    assert call.argument == "[Calculator(34 + 57) and so on"


def test_sample_calls_closed_too_late_is_not_closed():
    assert one_call("34 + 57)]", max_call_tokens=3).drop_reason is DropReason.NOT_CLOSED


@pytest.mark.parametrize("text", ["34 + 57]", "34 + 57) -> 91]", "34 + 57) = 91]", "1)(2]"])
def test_sample_calls_closed_but_no_call_is_malformed(text):
    call = one_call(text)
    assert call.drop_reason is DropReason.MALFORMED
    assert call.argument == f"[Calculator({text.removesuffix(']')}"


def test_sample_calls_unforced_name_of_another_tool_is_malformed():
    call = one_call("Calendar()]", force_tool_name=False)
    assert call.drop_reason is DropReason.MALFORMED


def test_sample_calls_unforced_own_name_is_proposed():
    call = one_call("Calculator(34 + 57)]", force_tool_name=False)
    assert (call.argument, call.drop_reason) == ("34 + 57", None)


def test_sample_calls_repeated_argument_at_a_position_is_duplicate():
    calls, _ = sample({SUM: ["34 + 57)]", " 34 + 57)]"]}, samples_per_position=4)
    reasons = [call.drop_reason for call in calls]
    assert reasons == [None] + [DropReason.DUPLICATE] * 3
    assert len({call.candidate_id for call in calls}) == 4


def test_sample_calls_same_argument_at_another_position_is_no_duplicate():
    calls, _ = sample({6: ["34 + 57)]"], SUM: ["34 + 57)]"]}, chosen=(6, SUM))
    assert [call.drop_reason for call in calls] == [None, None]


def test_sample_calls_argument_from_the_future_is_look_ahead():
    call = one_call("91 - 57)]", tool=HelpfulAnywhere(), look_ahead_guard=True)
    assert call.drop_reason is DropReason.LOOK_AHEAD


def test_sample_calls_without_guard_argument_from_the_future_is_proposed():
    assert one_call("91 - 57)]").drop_reason is None


def test_sample_calls_guard_samples_only_where_a_call_can_be_right():
    calls, _ = sample({}, chosen=range(10), tool=HelpfulBeforeIs(), look_ahead_guard=True)
    assert [call.token_index for call in calls] == [6]


def test_sample_calls_tool_without_argument_is_sampled_once_by_rule():
    calls, counts = sample({}, tool=Calendar(), samples_per_position=5)
    assert [(call.argument, call.drop_reason) for call in calls] == [("", None)]
    assert counts["positions"] == 1


def test_sample_calls_loss_without_call_equals_the_slow_reference():
    calls, _ = sample({}, chosen=range(10), max_positions=20)
    assert [call.token_index for call in calls] == list(range(10))
    expected = [reference_loss(ScriptedLM(), TEXT, i, "") for i in range(10)]
    found = [call.loss_without_call for call in calls]
    assert found == pytest.approx(expected, rel=1e-12)


def test_sample_calls_at_position_zero_has_the_offset_zero():
    [call], _ = sample({0: ["1 + 2)]"]}, chosen=(0,))
    assert (call.token_index, call.char_offset, call.drop_reason) == (0, 0, None)


def test_sample_calls_at_the_end_has_no_loss():
    [call], _ = sample({9: ["34 + 57)]"]}, chosen=(9,))
    assert (call.char_offset, call.loss_without_call) == (len(TEXT), 0.0)


def test_sample_calls_seed_decides_the_samples():
    texts = [f"{n} + {n})]" for n in range(50)]

    def arguments(seed):
        return [c.argument for c in sample({SUM: texts}, samples_per_position=9, seed=seed)[0]]

    assert arguments(1) == arguments(1)
    assert arguments(1) != arguments(2)


def test_sample_calls_samples_of_one_position_differ():
    texts = [f"{n} + {n})]" for n in range(50)]
    calls, _ = sample({SUM: texts}, samples_per_position=9)
    assert len({call.argument for call in calls}) > 4


def pruned_run(prune_below):
    lm = ScriptedLM(
        start_probabilities=probabilities(0, 3, 6, 9),
        losses={("", TEXT): [5, 5, 5, 0.1, 0.1, 0.1, 0.1, math.nan, 0.1]},
    )
    config = settings(prune_below=prune_below)
    return sample_calls([DOCUMENT], lm, Calculator(), config, num_scored_tokens=5)


def test_sample_calls_prune_skips_positions_with_a_small_loss():
    calls, counts = pruned_run(prune_below=0.5)
    # 3 and 6 see the NaN, 0 sees (5 * 5 + 4 * 5 + 3 * 5 + ...) / 15, 9 is the end with loss 0.
    assert [call.token_index for call in calls] == [0, 3, 6]
    assert (counts["positions"], counts["positions_pruned"]) == (3, 1)


def test_sample_calls_prune_by_flat_weights():
    lm = ScriptedLM(
        start_probabilities=probabilities(0, 4),
        losses={("", TEXT): [2, 0, 0, 0, 0, 0, 0, 0, 2.6]},
    )
    config = settings(prune_below=0.5)
    flat, _ = sample_calls(
        [DOCUMENT], lm, Calculator(), config, num_scored_tokens=5, token_weights="flat"
    )
    linear, _ = sample_calls([DOCUMENT], lm, Calculator(), config, num_scored_tokens=5)
    # Flat: 2 / 5 < 0.5 at 0, and 2.6 / 5 at 4; linear: 5 * 2 / 15 > 0.5, and 2.6 / 15.
    assert {c.token_index: c.loss_without_call for c in flat} == {4: pytest.approx(0.52)}
    assert {c.token_index: c.loss_without_call for c in linear} == {0: pytest.approx(2 / 3)}


def test_sample_calls_prune_keeps_a_loss_that_is_nan():
    calls, _ = pruned_run(prune_below=0.5)
    assert math.isnan(calls[1].loss_without_call)


def test_sample_calls_prune_at_the_bound_keeps():
    lm = ScriptedLM(start_probabilities=probabilities(8), losses={("", TEXT): [0.5] * 9})
    calls, counts = sample_calls(
        [DOCUMENT], lm, Calculator(), settings(prune_below=0.5), num_scored_tokens=5
    )
    assert (len(calls), counts["positions_pruned"]) == (1, 0)


def test_sample_calls_prune_does_not_change_the_other_samples():
    everything, _ = pruned_run(prune_below=0.0)
    pruned, _ = pruned_run(prune_below=0.5)
    survivors = [call.candidate_id for call in everything if call.token_index != 9]
    assert [call.candidate_id for call in pruned] == survivors


def test_sample_calls_context_without_room_for_the_prompt_is_refused():
    with pytest.raises(ConfigError, match="context of 100 tokens leaves"):
        sample_calls(
            [DOCUMENT],
            ScriptedLM(context_tokens=100),
            Calculator(),
            settings(),
            num_scored_tokens=5,
        )


def test_sample_calls_long_document_is_cut_into_windows():
    text = " ".join(f"There are {n} mills." for n in range(100))
    prompt_tokens = len(ScriptedLM().tokenize(Calculator().prompt.replace("{text}", "")).token_ids)
    lm = ScriptedLM(context_tokens=prompt_tokens + settings().max_call_tokens + 16 + 2 * 90)
    calls, counts = sample_calls(
        [document(text=text)], lm, Calculator(), settings(max_positions=3), num_scored_tokens=5
    )
    windows = sorted({(call.window_start, call.window_end) for call in calls})
    offsets = lm.tokenize(text).char_offsets
    assert counts["documents_windowed"] == 1
    assert windows[0][0] == 0
    assert windows[-1][1] == len(offsets) - 1
    assert all(end == start for (_, end), (start, _) in itertools.pairwise(windows))
    assert max(end - start for start, end in windows) <= 90
    for call in calls:
        assert call.window_start <= call.token_index <= call.window_end
        assert call.char_offset == offsets[call.token_index]
        expected = min(5, call.window_end - call.token_index)
        assert len(call.token_losses_without_call) == expected


def test_sample_calls_documents_by_rule_are_counted():
    texts = ("34 apples and 57 pears are 91.", "A total of 5 mills.", "No number at all.")
    documents = [document(text=text, document_id=text) for text in texts]
    calls, counts = sample_calls(
        documents,
        ScriptedLM(),
        Calculator(),
        settings(document_heuristic="paper"),
        num_scored_tokens=5,
    )
    assert (counts["rule_operation"], counts["rule_phrase"]) == (1, 1)
    assert (counts["documents"], counts["documents_not_qualified"]) == (3, 1)
    assert {call.document_id for call in calls} == set(texts[:2])


def test_sample_calls_document_without_place_is_counted():
    calls, counts = sample_calls(
        [document(text="No numbers here at all.")],
        ScriptedLM(),
        HelpfulBeforeIs(),
        settings(look_ahead_guard=True),
        num_scored_tokens=5,
    )
    assert (calls, counts["documents_without_place"]) == ([], 1)


def test_sample_calls_without_documents_gives_nothing():
    calls, counts = sample_calls([], ScriptedLM(), Calculator(), settings(), num_scored_tokens=5)
    assert (calls, counts["documents"]) == ([], 0)


def test_sample_calls_reads_few_texts_at_a_time_and_lets_go_of_them():
    prompt = len(ScriptedLM().tokenize(Calculator().prompt).token_ids)
    readings, num_texts = [], []

    class WatchedReading:
        def __init__(self, reading):
            self.start_probabilities = reading.start_probabilities
            self.continuations = reading.continuations

    class WatchedLM(ScriptedLM):
        def read(self, prompt, texts, places):
            assert all(reading() is None for reading in readings)
            watched = WatchedReading(super().read(prompt, texts, places))
            readings.append(weakref.ref(watched))
            num_texts.append(len(texts))
            return watched

    documents = [document(text=f"{TEXT} {n}", document_id=f"document-{n}") for n in range(150)]
    calls, _ = sample_calls(documents, WatchedLM(), Calculator(), settings(), num_scored_tokens=5)
    assert sum(num_texts) == len({call.document_id for call in calls}) == len(documents)
    assert 2 < len(readings) < 10
    assert max(num_texts) * prompt < 12_288


def test_sample_calls_every_sample_is_a_row_with_one_reason():
    continuations = {
        5: ["34 + 57]"],
        6: ["91 - 57)]"],
        SUM: ["34 + 57)]"],
        9: ["34 + 57) ever on"],
    }
    chosen = (5, 6, SUM, 9)
    calls, counts = sample(
        continuations,
        chosen=chosen,
        tool=HelpfulAnywhere(),
        samples_per_position=3,
        look_ahead_guard=True,
    )
    assert counts["positions"] == 4
    assert len(calls) == 3 * counts["positions"]
    assert Counter(call.drop_reason for call in calls) == {
        None: 1,
        DropReason.NOT_CLOSED: 3,
        DropReason.MALFORMED: 3,
        DropReason.LOOK_AHEAD: 1,
        DropReason.DUPLICATE: 4,
    }


def test_annotation_prompt_is_the_tools_own_around_the_text():
    tool = Calculator()
    prompt = annotation_prompt(tool)
    assert prompt.head + "{text}" + prompt.tail == tool.prompt
    assert (prompt.head[-7:], prompt.tail) == ("Input:\n", "\nOutput:\n")
