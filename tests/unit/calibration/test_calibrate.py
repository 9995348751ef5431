"""Calibration on made-up trials: what is recommended, and what is predicted."""

from dataclasses import replace

import pytest
from scipy.stats import binomtest, norm

from tests.support.builders import document, pipeline_config
from tests.support.scripted_lm import ScriptedLM
from toolformer_core.calibration.calibrate import (
    Basis,
    NotCalibrated,
    ToolCalibration,
    ToolSettings,
    calibrate_tool,
    calibrated,
    choose_sampling,
    choose_threshold,
    lower_end,
    predict,
)
from toolformer_core.calibration.trials import EVERYTHING, Annotator, Trial, Tried
from toolformer_core.calling.caller import ToolCaller
from toolformer_core.config.pipeline import ExecuteConfig, SampleConfig, ScoreConfig
from toolformer_core.tools.calculator import Calculator

RIGHT, WRONG = Basis.RIGHT_RESULTS, Basis.WRONG_RESULTS


def trial(reduction=None, *, wrong=None, is_right=None, rank=0, sample=0, p=0.2, loss=3.0):
    return Trial(
        position_rank=rank,
        sample_index=sample,
        start_probability=p,
        loss_without_call=loss,
        loss_with_result=None if reduction is None else loss - reduction,
        loss_reduction=reduction,
        wrong_result_reduction=wrong,
        is_right=is_right,
    )


def judged(*pairs):
    return [trial(reduction, is_right=is_right) for reduction, is_right in pairs]


def test_choose_threshold_is_the_lowest_that_reaches_the_target():
    trials = judged(*[(0.2, False)] * 6, *[(0.5, True)] * 8, *[(1.0, True)] * 2)
    # 16 kept at 0.1, 10 right: 0.50 at the lower end. At 0.5 10 of 10: 0.91.
    assert choose_threshold(trials, RIGHT, 0.8, 0.1) == (0.5, True)
    assert choose_threshold(trials, RIGHT, 0.5, 0.1) == (0.1, True)
    assert choose_threshold(trials, RIGHT, 0.51, 0.1) == (0.5, True)


@pytest.mark.parametrize("num_judged", [5, 40, 400])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.8, 1.0])
def test_lower_end_equals_the_score_interval_of_scipy(share, num_judged):
    num_good = round(share * num_judged)
    one_error = 2 * norm.cdf(1) - 1
    interval = binomtest(num_good, num_judged).proportion_ci(one_error, method="wilson")
    assert lower_end(num_good, num_judged) == pytest.approx(interval.low, abs=1e-9)


def test_choose_threshold_lowest_of_interest_is_the_floor():
    trials = judged(*[(0.02, True)] * 30)
    assert choose_threshold(trials, RIGHT, 0.8, 0.01) == (0.01, True)
    assert choose_threshold(trials, RIGHT, 0.8, 0.1) is None


def test_choose_threshold_unreachable_target_gives_the_best_share():
    trials = judged(*[(0.2, False)] * 9, *[(0.4, True)] * 6, *[(0.4, False)] * 3)
    assert choose_threshold(trials, RIGHT, 0.9, 0.1) == (0.4, False)


def test_choose_threshold_too_few_judged_calls_decide_nothing():
    trials = judged(*[(0.5, True)] * 4) + [trial(0.5)] * 20
    assert choose_threshold(trials, RIGHT, 0.8, 0.1) is None


def test_choose_threshold_calls_without_a_finite_reduction_do_not_count():
    trials = judged(*[(float("nan"), True)] * 9, *[(float("inf"), True)] * 9) + [trial()] * 9
    assert choose_threshold(trials, RIGHT, 0.1, 0.1) is None


def test_choose_threshold_by_wrong_results_leaves_few_calls_to_chance():
    low = [trial(0.2, wrong=0.25) for _ in range(5)]
    high = [trial(0.6, wrong=0.1) for _ in range(10)]
    # At 0.1 15 are kept and 15 would be by chance; at 0.26 10 and none.
    assert choose_threshold(low + high, WRONG, 0.8, 0.1) == (0.6, True)
    assert choose_threshold(low + high, WRONG, 0.5, 0.2) == (0.2, True)


def test_choose_threshold_calls_that_no_wrong_result_was_tried_for_are_not_judged():
    trials = [trial(0.6, wrong=0.1)] * 4 + [trial(0.6)] * 20
    assert choose_threshold(trials, WRONG, 0.1, 0.1) is None


def test_choose_threshold_calls_that_fail_a_control_are_not_kept():
    beaten = [replace(t, passes_controls=False) for t in judged(*[(0.5, False)] * 20)]
    assert choose_threshold(beaten + judged(*[(0.5, True)] * 9), RIGHT, 0.85, 0.1) == (0.1, True)


def test_choose_sampling_threshold_is_not_below_the_one_that_was_tried():
    trials = [trial(1.0, p=0.06)] * 9
    assert choose_sampling(trials, 0.5, tried_above=0.05).sampling_threshold == 0.05


def test_choose_sampling_takes_the_fewest_that_keep_enough():
    best = [trial(1.0, rank=0, sample=0, p=0.3)] * 19
    far = [trial(1.0, rank=5, sample=2, p=0.001)]
    useless = [trial(0.0, rank=9, sample=9)]
    found = choose_sampling([*best, *far, *useless], 0.5)
    assert (found.max_positions, found.samples_per_position) == (1, 1)
    # Without the tolerance of one in twenty the far one is needed.
    found = choose_sampling([*best[:18], *far, *useless], 0.5)
    assert (found.max_positions, found.samples_per_position) == (6, 3)


def test_choose_sampling_prefers_fewer_samples_over_all():
    trials = [trial(1.0, rank=1, sample=0)] * 10 + [trial(1.0, rank=0, sample=1)] * 10
    found = choose_sampling(trials, 0.5)
    assert (found.max_positions, found.samples_per_position) == (2, 2)


@pytest.mark.parametrize("p", [1e-9, 0.0123, 0.05, 0.5, 1.0])
def test_choose_sampling_threshold_lies_below_every_kept_position(p):
    found = choose_sampling([trial(1.0, p=p), trial(1.0, p=min(1.0, 3 * p))], 0.5)
    assert p / 4 < found.sampling_threshold < p


TRIED = Tried(
    num_documents=4,
    trials=(
        trial(1.0, wrong=0.1, is_right=True, rank=0, sample=0),
        trial(0.6, wrong=0.7, is_right=False, rank=0, sample=1),
        trial(0.1, wrong=0.0, rank=1, sample=0),
        trial(rank=1, sample=1),
    ),
    seconds_reading=4.0,
    seconds_sampling=8.0,
    seconds_scoring=18.0,
    num_bytes=4000,
)


def settings(**changed):
    values = {
        "sampling_threshold": 0.0,
        "max_positions": 2,
        "samples_per_position": 2,
        "filtering_threshold": 0.5,
    }
    return ToolSettings(**{**values, **changed})


def test_predict_with_everything_measured_is_what_was_measured():
    found = predict(TRIED, settings(), RIGHT, EVERYTHING, num_controls=1)
    assert (found.kept, found.judged, found.share_good) == (0.5, 0.5, 0.5)
    assert found.seconds == pytest.approx((4 + 8 + 18) / 4)
    assert found.num_bytes == pytest.approx(1000)


def test_predict_fewer_samples_cost_in_proportion():
    found = predict(TRIED, settings(samples_per_position=1), RIGHT, EVERYTHING)
    # Half of the samples; of nine losses four are left: two calls without controls.
    assert found.seconds == pytest.approx((4 + 8 / 2 + 18 * 4 / 9) / 4)
    assert (found.kept, found.share_good) == (0.25, 1.0)


def test_predict_pruned_losses_are_not_paid():
    found = predict(TRIED, settings(samples_per_position=1), RIGHT, 0.5)
    assert found.seconds == pytest.approx((4 + 8 / 2 + 18 * 3 / 9) / 4)


def test_predict_by_wrong_results_takes_off_what_chance_would_keep():
    found = predict(TRIED, settings(), WRONG, EVERYTHING)
    assert (found.judged, found.share_good) == (0.5, 0.5)


def test_predict_nothing_judged_has_no_share():
    assert predict(TRIED, settings(filtering_threshold=5.0), RIGHT, EVERYTHING).share_good is None


TEXTS = [
    f"Note {n}: of {n} and {2 * n} the sum is {3 * n} and the rest is {n} again." for n in range(40)
]
DOCUMENTS = [document(text=text, document_id=text) for text in TEXTS]


def annotator(**score):
    return Annotator(
        lm=ScriptedLM(),
        caller=ToolCaller(Calculator(), ExecuteConfig()),
        sample=SampleConfig(
            sampling_threshold=0.0, max_positions=4, samples_per_position=3, look_ahead_guard=False
        ),
        score=ScoreConfig(**score),
    )


def run(**settings_):
    return calibrate_tool(
        DOCUMENTS, annotator(), **{"target": 0.01, "lowest_threshold": 0.5} | settings_
    )


def test_calibrate_tool_recommends_from_one_half_and_checks_on_the_other():
    found = run()
    assert isinstance(found, ToolCalibration)
    assert (found.tool, found.num_documents, found.basis) == ("Calculator", 20, RIGHT)
    assert found.settings.filtering_threshold >= 0.5
    assert found.settings.max_positions <= 4
    # Prediction and check are of the same kind, from different texts.
    assert 0.5 < found.predicted.kept / found.held_out.kept < 2
    assert found.held_out.seconds > 0
    assert 0.5 < found.predicted.num_bytes / found.held_out.num_bytes < 2


def test_calibrate_tool_twice_recommends_the_same():
    first, second = run(), run()
    assert (first.settings, first.predicted.kept, first.held_out.kept) == (
        second.settings,
        second.predicted.kept,
        second.held_out.kept,
    )


def test_calibrate_tool_held_out_is_what_a_run_with_the_settings_keeps():
    found = run()
    chosen = found.settings
    sparing = Annotator(
        lm=ScriptedLM(),
        caller=ToolCaller(Calculator(), ExecuteConfig()),
        sample=SampleConfig(
            sampling_threshold=chosen.sampling_threshold,
            max_positions=chosen.max_positions,
            samples_per_position=chosen.samples_per_position,
            look_ahead_guard=False,
            prune_below=0.5,
        ),
        score=ScoreConfig(),
    )
    tried = sparing.run(DOCUMENTS[20:])
    reductions = [t.loss_reduction for t in tried.trials if t.loss_reduction is not None]
    kept = sum(reduction >= chosen.filtering_threshold for reduction in reductions)
    assert found.held_out.kept == pytest.approx(kept / 20)


def test_calibrate_tool_without_calls_that_help_is_not_calibrated():
    found = run(lowest_threshold=9.0)
    assert isinstance(found, NotCalibrated)
    assert found.num_calls >= found.num_with_result > 0


def test_calibrated_settings_are_those_of_the_tools_found():
    base = pipeline_config("tools.enabled=[Calculator, Calendar]", "sample.max_positions=7")
    found = run()
    config = calibrated(base, [found])
    chosen = found.settings
    assert config.of_tool("Calculator").sample.max_positions == chosen.max_positions
    assert config.of_tool("Calendar").sample.max_positions == 7
    assert config.filter.filtering_threshold == {
        "default": base.filter.filtering_threshold,
        "Calculator": chosen.filtering_threshold,
    }
    assert calibrated(base, []) == base
