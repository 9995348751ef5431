"""The grid of a sweep: which cells it has, what they share, and what is refused."""

import pytest

from tests.support.builders import pipeline_config
from toolformer_core.config.variations import (
    Variation,
    cells,
    needs_training,
    sweep_name,
    vary_model,
    vary_seed,
    vary_setting,
    vary_threshold,
    vary_top_k,
)
from toolformer_core.errors import ConfigError

CONFIG = pipeline_config("tools.enabled=[Calculator, Calendar]")


def test_cells_are_all_combinations_the_last_fastest():
    grid = cells(CONFIG, [vary_threshold(["0.5", "1.0"]), vary_top_k(["0", "3", "10"])])

    assert [cell.values for cell in grid] == [
        {"tau_f": tau_f, "k": k} for tau_f in (0.5, 1.0) for k in (0, 3, 10)
    ]
    assert [cell.config.filter.filtering_threshold for cell in grid] == [0.5] * 3 + [1.0] * 3
    assert [cell.config.evaluate.decode.call_top_k for cell in grid] == [0, 3, 10] * 2
    assert grid[1].name == "tau_f 0.5, k 3"


def test_cells_change_nothing_but_what_varies():
    [cell] = cells(CONFIG, [vary_top_k(["3"])])

    expected = CONFIG.model_dump()
    expected["evaluate"]["decode"]["call_top_k"] = 3
    assert cell.config.model_dump() == expected


def test_cells_share_one_lowest_threshold_so_that_counts_are_complete():
    grid = cells(CONFIG, [vary_threshold(["0.05", "2.5"])])

    assert {cell.config.filter.threshold_sweep for cell in grid} == {
        (0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 2.5)
    }
    assert {
        cell.config.of_tool(tool).prune_below for cell in grid for tool in CONFIG.tools.enabled
    } == {0.05}


def test_cells_thresholds_per_tool_count_too():
    config = pipeline_config(
        "tools.enabled=[Calculator, Calendar]", "filter.filtering_threshold.Calendar=0.01"
    )
    grid = cells(config, [vary_setting("filter.filtering_threshold.Calculator=0.03|0.3")])

    assert {cell.config.filter.threshold_sweep[:2] for cell in grid} == {(0.01, 0.03)}
    assert grid[0].config.filter.filtering_threshold == {
        "default": 1.0,
        "Calendar": 0.01,
        "Calculator": 0.03,
    }


def test_cells_threshold_in_the_default_sweep_leaves_the_pruning_of_a_run():
    grid = cells(CONFIG, [vary_threshold(["0.2", "0.5"])])

    assert {cell.config.filter.threshold_sweep for cell in grid} == {CONFIG.filter.threshold_sweep}


def test_vary_seed_sets_the_three_seeds():
    first, second = (cell.config for cell in cells(CONFIG, [vary_seed(["7", "8"])]))

    assert (first.sample.seed, first.finetune.seed, first.evaluate.seed) == (7, 7, 7)
    assert (second.sample.seed, second.finetune.seed, second.evaluate.seed) == (8, 8, 8)


def test_vary_top_k_takes_the_place_of_a_call_threshold():
    config = pipeline_config("evaluate.decode.call_threshold=0.5")
    [cell] = cells(config, [vary_top_k(["3"])])

    assert cell.config.evaluate.decode.call_threshold is None


def test_vary_model_is_named_by_its_last_part_and_kept_as_it_is():
    grid = cells(CONFIG, [vary_model(["a/SmolLM2-135M", "b/1e5"])])

    assert [cell.values["model"] for cell in grid] == ["SmolLM2-135M", "1e5"]
    assert [cell.config.model.name_or_path for cell in grid] == ["a/SmolLM2-135M", "b/1e5"]


def test_vary_model_leaves_out_the_revision_of_another():
    config = pipeline_config("model.revision=abc")
    [cell] = cells(config, [vary_model(["a/one"])])

    assert cell.config.model.revision is None


def test_vary_model_same_last_part_is_named_in_full():
    grid = cells(CONFIG, [vary_model(["a/model", "b/model"])])

    assert [cell.values["model"] for cell in grid] == ["a/model", "b/model"]


def test_vary_setting_takes_values_as_in_set():
    grid = cells(CONFIG, [vary_setting("score.controls=[]|[wrong_result, shuffled_result]")])

    assert [cell.values["score.controls"] for cell in grid] == [
        "[]",
        "[wrong_result, shuffled_result]",
    ]
    assert [cell.config.score.controls for cell in grid] == [
        (),
        ("wrong_result", "shuffled_result"),
    ]


def test_vary_setting_value_may_hold_an_equals_sign_and_braces():
    grid = cells(CONFIG, [vary_setting("evaluate.benchmarks=[asdiv=a.jsonl]|[dateset]")])
    per_tool = cells(CONFIG, [vary_setting("sample.max_positions={Calendar: 1, default: 2}|3")])

    assert [cell.config.evaluate.benchmarks for cell in grid] == [("asdiv=a.jsonl",), ("dateset",)]
    assert per_tool[0].config.sample.max_positions == {"Calendar": 1, "default": 2}


@pytest.mark.parametrize(
    ("variations", "expected"),
    [
        ([vary_threshold(["0.3", "0.5"])], False),
        ([vary_seed(["7", "8"])], False),
        ([vary_setting("score.token_weights=linear|flat")], False),
        ([vary_model(["a", "b"])], False),
        ([vary_threshold(["0.3", "0.5"]), vary_top_k(["10"])], True),
        ([vary_setting("finetune.num_steps=10|20")], True),
        ([vary_setting("augment.max_calls_per_document=1|2")], True),
        ([vary_setting("evaluate.limit=10")], True),
    ],
)
def test_needs_training_where_stored_losses_cannot_tell(variations, expected):
    assert needs_training(variations) is expected


@pytest.mark.parametrize(
    ("make", "given", "expected"),
    [
        (vary_threshold, ["0.3", "", "0.5"], "tau_f '0.3,,0.5'.*empty"),
        (vary_threshold, ["0.5", "0.50"], "0.50 is there twice"),
        (vary_top_k, ["1", "3", "1"], "k '1,3,1': 1 is there twice"),
        (vary_model, ["a", "a"], "--models 'a,a': a is there twice"),
        (vary_setting, "score.controls", "expected KEY=VALUE|VALUE"),
        (vary_setting, "score.controls=", "score.controls ''.*empty"),
        (vary_setting, "score.controls=[]|[ ]", "twice"),
        (vary_setting, "score.controls=[|[]", "not YAML"),
    ],
)
def test_vary_bad_list_is_refused(make, given, expected):
    with pytest.raises(ConfigError, match=expected):
        make(given)


@pytest.mark.parametrize(
    ("variations", "expected"),
    [
        ([], "nothing to sweep; pass --filtering-threshold"),
        ([vary_threshold(["0.3", "much"])], "filter.filtering_threshold.*'much'"),
        ([vary_threshold(["0.3", "-1"])], "filter.filtering_threshold.*-1"),
        ([vary_top_k(["1", "1001"])], "call_top_k.*1001"),
        ([vary_setting("score.weights=1|2")], "unknown setting 'score.weights'"),
        ([vary_setting("sample.max_positions.Oracle=1|2")], "Oracle"),
        (
            [vary_threshold(["0.3"]), vary_setting("filter.filtering_threshold.Calendar=0.1|0.2")],
            "tau_f and filter.filtering_threshold.Calendar both vary "
            "filter.filtering_threshold.Calendar",
        ),
        (
            [vary_top_k(["1", "3"]), vary_setting("evaluate.decode.call_top_k=5")],
            "both vary evaluate.decode.call_top_k",
        ),
    ],
)
def test_cells_bad_grid_is_refused(variations, expected):
    with pytest.raises(ConfigError, match=expected):
        cells(CONFIG, variations)


def test_cells_threshold_below_an_explicit_pruning_is_refused():
    config = pipeline_config("sample.prune_below=0.2")

    with pytest.raises(ConfigError, match=r"below sample\.prune_below 0\.2"):
        cells(config, [vary_threshold(["0.1", "1.0"])])


def test_variation_survives_json():
    variation = vary_setting("score.controls=[]|[wrong_result]")

    assert Variation.model_validate_json(variation.model_dump_json()) == variation


def test_sweep_name_tells_grids_apart():
    def name(*texts, trains=False):
        return sweep_name(
            cells(CONFIG, [vary_threshold(text.split(",")) for text in texts]), trains=trains
        )

    names = {name("0.3,0.5"), name("0.3,1.0"), name("0.3,0.5", trains=True)}
    assert len(names) == 3
    assert name("0.3,0.5") in names
