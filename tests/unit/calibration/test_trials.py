"""Trials of a scripted model: ranks, everything measured, and the wrong results."""

from dataclasses import replace

import pytest

from tests.support.builders import document, proposed_call, scored_call
from tests.support.scripted_lm import ScriptedLM
from toolformer_core.calibration.trials import Annotator, trials_of
from toolformer_core.calling.caller import ToolCaller
from toolformer_core.config.pipeline import ExecuteConfig, SampleConfig, ScoreConfig
from toolformer_core.records import DropReason
from toolformer_core.tools.calculator import Calculator

TEXTS = ("Of 34 and 57 the sum is 91 in all.", "From 60 the 24 go and 36 are left.")
DOCUMENTS = [document(text=text, document_id=text) for text in TEXTS]


def proposed(token_index, probability, **fields):
    name = f"{fields.get('document_id', 'document-1')}-{token_index}-{fields.get('sample_index')}"
    return proposed_call(
        **{
            "candidate_id": name,
            "token_index": token_index,
            "start_probability": probability,
            **fields,
        }
    )


def test_trials_of_rank_positions_within_their_window_by_probability():
    calls = [
        proposed(3, 0.1, sample_index=0),
        proposed(3, 0.1, sample_index=1),
        proposed(9, 0.4, sample_index=0),
        proposed(12, 0.1, sample_index=0),
        proposed(20, 0.2, sample_index=0, window_start=15),
    ]
    ranks = [t.position_rank for t in trials_of(calls, [], ())]
    assert ranks == [1, 1, 0, 2, 0]


def test_trials_of_call_without_a_result_has_no_losses():
    [found] = trials_of([proposed(3, 0.1, drop_reason=DropReason.MALFORMED)], [], ())
    assert {found.loss_reduction, found.wrong_result_reduction, found.is_right} == {None}


def test_trials_of_wrong_result_is_judged_like_the_own_one():
    call = proposed(9, 0.4, candidate_id="c", loss_without_call=3.0)
    scored = scored_call(
        candidate_id="c",
        loss_without_call=3.0,
        loss_with_empty_result=2.5,
        loss_with_wrong_result=2.25,
    )
    [found] = trials_of([call], [scored], ())
    assert found.wrong_result_reduction == pytest.approx(0.25)


def annotator():
    return Annotator(
        lm=ScriptedLM(),
        caller=ToolCaller(Calculator(), ExecuteConfig()),
        sample=SampleConfig(
            sampling_threshold=0.0, max_positions=3, samples_per_position=4, look_ahead_guard=False
        ),
        score=ScoreConfig(),
    )


def test_annotator_measuring_everything_leaves_no_loss_out():
    tried = replace(annotator(), measures_everything=True).run(DOCUMENTS)
    scored = [t for t in tried.trials if t.loss_with_result is not None]
    assert (tried.num_documents, len(tried.trials)) == (2, 2 * 3 * 4)
    assert any(t.loss_reduction < 0 for t in scored)
    assert all(t.wrong_result_reduction is not None for t in scored)


def test_annotator_pruning_leaves_out_what_cannot_be_kept():
    everything = replace(annotator(), measures_everything=True).run(DOCUMENTS)
    sample = annotator().sample.model_copy(update={"prune_below": 1.0})
    pruned = Annotator(
        lm=ScriptedLM(),
        caller=ToolCaller(Calculator(), ExecuteConfig()),
        sample=sample,
        score=ScoreConfig(),
    ).run(DOCUMENTS)

    def kept(tried):
        reductions = [t.loss_reduction for t in tried.trials if t.loss_reduction is not None]
        return sorted(reduction for reduction in reductions if reduction >= 1.0)

    assert len(pruned.trials) < len(everything.trials)
    assert kept(pruned) == kept(everything)


def test_annotator_any_sharding_gives_the_same_trials():
    everything = replace(annotator(), measures_everything=True)
    one_by_one = replace(everything, documents_per_shard=1).run(DOCUMENTS)
    assert one_by_one.trials == everything.run(DOCUMENTS).trials


def test_annotator_weighs_losses_as_the_settings_say():
    text = " ".join(["34"] * 20)
    lm = ScriptedLM(
        start_probabilities={text: [0.5 if i in (2, 8, 9) else 0.0 for i in range(21)]},
        losses={("", text): [3 if j % 5 == 0 else 0 for j in range(20)]},
    )
    flat = ScoreConfig(token_weights="flat")
    tried = replace(annotator(), lm=lm, score=flat).run([document(text=text)])
    # One in five losses is 3, so that their plain mean is 0.6 wherever it begins.
    losses = [trial.loss_without_call for trial in tried.trials]
    assert losses == pytest.approx([0.6] * len(losses))
    assert len(losses) == 3 * 4


def test_annotator_time_and_size_are_those_of_all_stages():
    tried = annotator().run(DOCUMENTS)
    assert min(tried.seconds_reading, tried.seconds_sampling, tried.seconds_scoring) > 0
    assert tried.num_bytes > 1000


@pytest.mark.parametrize(
    ("wrong", "shuffled", "controls", "passes"),
    [
        (0.5, 0.5, (), True),
        (0.5, 2.0, ("wrong_result",), False),
        (2.0, 0.5, ("wrong_result",), True),
        (2.0, 0.5, ("wrong_result", "shuffled_result"), False),
        (None, None, ("wrong_result", "shuffled_result"), True),
    ],
)
def test_trials_of_controls_in_force_decide(wrong, shuffled, controls, passes):
    call = proposed(9, 0.4, candidate_id="c")
    scored = scored_call(
        candidate_id="c",
        loss_with_result=1.0,
        loss_with_wrong_result=wrong,
        loss_with_shuffled_result=shuffled,
    )
    [found] = trials_of([call], [scored], controls)
    assert found.passes_controls is passes
