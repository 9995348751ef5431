"""The index and the report of a sweep: their figures by hand, and that the page is safe to open."""

import dataclasses
import json
import shlex
from pathlib import Path

import numpy as np
import pytest

from tasks.index import build, query
from tasks.report.sweep_figures import sweep_figures
from tasks.report.sweep_page import render_sweep, sweep_command
from tasks.sweep import CellResult, count_kept, count_parameters, sweep_tables
from tests.support.builders import (
    CallStory,
    document,
    evaluated_item,
    pipeline_config,
    write_annotation,
)
from tests.support.html_page import table_rows
from tests.unit.report.test_page import Elements
from toolformer_core.config.variations import (
    Variation,
    cells,
    needs_training,
    vary_model,
    vary_seed,
    vary_setting,
    vary_threshold,
    vary_top_k,
)
from toolformer_core.evaluate import score_arms
from toolformer_core.models import ModelRef
from toolformer_core.records import EvaluatedItem
from toolformer_core.shards import ShardRef, read_shard, write_manifest, write_shard

CONFIG = pipeline_config("tools.enabled=[Calculator]")
TAU_K = [vary_threshold(["0.5", "5"]), vary_top_k(["0", "10"])]


def shard_of(
    root: Path, name: str, scores: list[float], called: list[bool], call_top_k: int = 10
) -> ShardRef:
    """The items of webquestions under one arm."""
    arm = name.partition("-")[0]
    items = [
        evaluated_item(
            benchmark="webquestions",
            arm=arm,
            item_id=str(number),
            score=float(score),
            num_calls=int(calls),
            call_top_k=call_top_k if arm == "on" else 0,
            answer="<script>alert(1)</script>",
        )
        for number, (score, calls) in enumerate(zip(scores, called, strict=True))
    ]
    path = root / f"{name}.parquet"
    return write_shard(items, EvaluatedItem, path, shard_index=0, counts={})


def scored(shards: list[ShardRef]) -> tuple[dict[str, object], ...]:
    rows = [row for shard in shards for row in read_shard(shard, EvaluatedItem)]
    scores = score_arms(rows, "answer in the first 20 words", "answer", 0)
    return tuple(dataclasses.asdict(score) for score in scores)


def results(root: Path, variations: list[Variation]) -> list[CellResult]:
    """Cells that keep two calls at 0.5, none at 5; two of four items call where k is 10."""
    none, some = [False] * 4, [True, True, False, False]
    shared = [
        shard_of(root, "base", [0, 0, 0, 0], none),
        shard_of(root, "disabled", [1, 0, 1, 1], none),
    ]
    on = {
        0: shard_of(root, "on-0", [1, 0, 1, 1], none, call_top_k=0),
        10: shard_of(root, "on-10", [1, 1, 1, 0], some),
    }
    made = []
    for cell in cells(CONFIG, variations):
        tau_f, k = cell.values.get("tau_f", 0.5), cell.values.get("k", 10)
        if tau_f == 5:
            counts = {"Calculator": {"kept": 0, "checkable": 0, "right": 0}}
            made.append(
                CellResult(cell=cell, num_parameters=135, counts=counts, reason="no <call>")
            )
            continue
        counts = {"Calculator": {"kept": 1994, "checkable": 8, "right": 6}}
        trained = CellResult(cell=cell, num_parameters=135, counts=counts)
        if needs_training(variations):
            answered = [*shared, on.get(k, on[10])]
            trained = dataclasses.replace(
                trained,
                training={"dev_loss_nats": 1.5},
                answered=tuple(answered),
                scores=scored(answered),
            )
        made.append(trained)
    return made


def built(root: Path, variations: list[Variation]) -> Path:
    return indexed(root / "sweeps" / "name" / "calls.duckdb", results(root, variations))


def indexed(path: Path, found: list[CellResult]) -> Path:
    shards = {shard.path: shard for result in found for shard in result.answered}
    build.build_sweep_index(sweep_tables(found), list(shards.values()), path)
    return path


@pytest.fixture(scope="module")
def usual_index(tmp_path_factory):
    return built(tmp_path_factory.mktemp("sweep"), TAU_K)


def test_sweep_index_has_one_row_per_cell_with_what_varies(usual_index):
    rows = query.select(usual_index, "SELECT * FROM cells ORDER BY cell")

    assert [(row["tau_f"], row["k"], row["calls_kept"], row["reason"]) for row in rows] == [
        (0.5, 0, 1994, ""),
        (0.5, 10, 1994, ""),
        (5.0, 0, 0, "no <call>"),
        (5.0, 10, 0, "no <call>"),
    ]
    assert [row["dev_loss_nats"] for row in rows] == [1.5, 1.5, None, None]


def test_sweep_index_shared_items_stand_once_and_belong_to_each_cell(usual_index):
    def count(table):
        return query.select(usual_index, f"SELECT count(*) AS n FROM {table}")[0]["n"]

    assert count("evaluated_items") == 4 * 4  # base, disabled, on at 0 and at 10
    assert count("items") == 2 * 3 * 4  # two cells with three arms each


def test_sweep_index_call_split_by_hand(usual_index):
    # At k = 10 on is right in items 0, 1, 2, of which it calls in 0 and 1; disabled in 0, 2, 3.
    rows = query.select(usual_index, "SELECT * FROM call_split ORDER BY cell")

    assert [(row["cell"], row["n"], row["accuracy"], row["call_rate"]) for row in rows] == [
        (0, 4, 0.75, 0.0),
        (1, 4, 0.75, 0.5),
    ]
    assert rows[0]["accuracy_called"] is None
    assert rows[1]["accuracy_called"] == 1.0
    assert rows[1]["accuracy_not_called"] == 0.5
    assert rows[1]["disabled_called"] == 0.5
    assert rows[1]["disabled_not_called"] == 1.0


def test_sweep_index_views_are_commented(usual_index):
    rows = query.select(
        usual_index, "SELECT view_name, comment FROM duckdb_views() WHERE NOT internal"
    )

    assert {row["view_name"] for row in rows} == {"items", "call_split"}
    assert all(row["comment"] for row in rows)


def test_sweep_figures_are_named_by_what_they_show(usual_index):
    assert sorted(sweep_figures(usual_index, TAU_K)) == [
        "calibration_webquestions_0.5",
        "kept_by_tau_f",
        "right_by_tau_f",
        "webquestions_by_k",
        "webquestions_by_tau_f",
    ]


def test_sweep_figures_hold_the_values_of_the_cells(usual_index):
    (axes,) = sweep_figures(usual_index, TAU_K)["webquestions_by_k"].axes

    labels = [text.get_text() for text in axes.get_xticklabels()]
    lines = {c.get_label(): np.asarray(c.lines[0].get_ydata()).tolist() for c in axes.containers}
    assert labels == ["0", "10"]
    assert lines == {"M*, tau_f 0.5": [0.75, 0.75], "M": [0.0, 0.0]}


def test_sweep_figures_several_seeds_are_one_point(tmp_path):
    variations = [vary_seed(["7", "8"]), *TAU_K]
    (axes,) = sweep_figures(built(tmp_path, variations), variations)["webquestions_by_k"].axes

    assert [container.get_label() for container in axes.containers] == ["M*, tau_f 0.5", "M"]


def test_sweep_figures_mean_of_seeds_counts_equal_ones_each(tmp_path):
    variations = [vary_seed(["7", "8", "9", "10"]), vary_top_k(["0", "10"])]
    found = results(tmp_path, variations)
    values = iter([0.75, 0.25, 0.75, 0.75])
    for number, result in enumerate(found):
        if result.cell.values["k"] == 10:
            value = next(values)
            scores = tuple(
                {**s, "value": value, "low": value, "high": value} if s["arm"] == "on" else s
                for s in result.scores
            )
            found[number] = dataclasses.replace(result, scores=scores)
    path = indexed(tmp_path / "calls.duckdb", found)

    (axes,) = sweep_figures(path, variations)["webquestions_by_k"].axes

    on = axes.containers[0]
    assert np.asarray(on.lines[0].get_ydata()).tolist() == [0.75, 0.625]
    assert on.lines[2][0].get_segments()[1][:, 1].tolist() == [0.25, 0.75]


def test_sweep_figures_disabled_is_split_as_on_is_but_not_by_k(tmp_path):
    variations = [vary_threshold(["0.5", "1"]), vary_top_k(["1", "10"])]
    found = [
        dataclasses.replace(
            result,
            scores=tuple(
                {**s, "value": 0.25} if s["arm"] == "disabled" and tau_f == 1 else s
                for s in result.scores
            ),
        )
        for result in results(tmp_path, variations)
        if (tau_f := result.cell.values["tau_f"])
    ]
    drawn = sweep_figures(indexed(tmp_path / "calls.duckdb", found), variations)

    (axes,) = drawn["webquestions_by_k"].axes
    lines = {c.get_label(): np.asarray(c.lines[0].get_ydata()).tolist() for c in axes.containers}
    assert lines["M*, calls disabled, tau_f 0.5"] == [0.75, 0.75]
    assert lines["M*, calls disabled, tau_f 1"] == [0.25, 0.25]
    (axes,) = drawn["webquestions_by_tau_f"].axes
    lines = {c.get_label(): np.asarray(c.lines[0].get_ydata()).tolist() for c in axes.containers}
    assert lines["M*, calls disabled"] == [0.75, 0.25]


def test_sweep_of_a_call_threshold_shows_it_and_not_the_papers_k(tmp_path):
    variations = [vary_setting("evaluate.decode.call_threshold=null|0.25")]
    path = indexed(tmp_path / "calls.duckdb", results(tmp_path, variations))

    (axes,) = sweep_figures(path, variations)["calibration_webquestions"].axes
    text = render_sweep(path, variations, CONFIG, {})

    assert [t.get_text() for t in axes.get_xticklabels()] == ["k = 10", "p = 0.25"]
    rows = [row for row in table_rows(text) if row.startswith("webquestions ") and " = " in row]
    assert "k = 10" in rows[0]
    assert rows[0].endswith("26.3 26.4 - 100.0")
    assert "p = 0.25" in rows[1]
    assert rows[1].endswith("- - - -")


def test_sweep_figures_calibration_is_in_the_order_of_k(usual_index):
    (axes,) = sweep_figures(usual_index, TAU_K)["calibration_webquestions_0.5"].axes

    assert [t.get_text() for t in axes.get_xticklabels()] == ["k = 0", "k = 10"]


def test_sweep_figures_two_sizes_make_a_scaling_figure(tmp_path):
    variations = [vary_model(["a/small", "a/large"]), vary_top_k(["10"])]
    found = results(tmp_path, variations)
    found[1] = dataclasses.replace(found[1], num_parameters=1_350_000)
    path = indexed(tmp_path / "calls.duckdb", found)

    (axes,) = sweep_figures(path, variations)["scaling_webquestions"].axes

    assert [container.get_label() for container in axes.containers] == [
        "M",
        "M*, calls disabled",
        "M*",
    ]
    assert np.asarray(axes.containers[0].lines[0].get_xdata()).tolist() == [135, 1_350_000]


def test_render_sweep_shows_ours_beside_the_paper_and_why_a_cell_has_no_scores(usual_index):
    text = render_sweep(usual_index, TAU_K, CONFIG, {"MLflow run": "run"})

    assert "<td>Calculator</td><td>0.5</td><td><b>1,994</b></td>" in text
    assert "3,680" in text  # Table 2 of the paper
    assert "no &lt;call&gt;" in text
    assert "<td>26.3</td>" not in text
    assert '<td class="pair">26.3</td>' in text  # Table 9, WebQuestions at k = 10
    elements = Elements(text)
    assert elements.open == []
    assert "script" not in elements.names


def test_render_sweep_is_the_same_each_time(usual_index):
    first, second = (render_sweep(usual_index, TAU_K, CONFIG, {}) for _ in range(2))

    assert first == second


def test_render_sweep_of_counts_alone_says_how_to_train(tmp_path):
    variations = [vary_threshold(["0.5", "5"])]
    text = render_sweep(built(tmp_path, variations), variations, CONFIG, {})

    assert "No model was trained: pass --call-top-k" in text
    assert "<svg" in text


def test_sweep_command_makes_the_same_variations(tmp_path):
    given = [
        vary_model(["a/one", "b/two:3"]),
        vary_seed(["7", "8"]),
        vary_setting("score.controls=[]|[wrong_result]"),
        *TAU_K,
    ]
    words = shlex.split(sweep_command(tmp_path / "sweeps" / "name", given, CONFIG))

    assert words[:6] == [
        *("toolformer", "sweep"),
        *("--config", str(tmp_path / "sweeps" / "name" / "settings.yaml")),
        *("--out", str(tmp_path)),
    ]
    makers = {
        "--models": vary_model,
        "--seed": vary_seed,
        "--vary": vary_setting,
        "--filtering-threshold": vary_threshold,
        "--call-top-k": vary_top_k,
    }
    options = zip(words[6::2], words[7::2], strict=True)
    made = [
        makers[option](text if option == "--vary" else text.split(",")) for option, text in options
    ]
    assert made == given


def test_sweep_command_after_a_proposer_asks_for_its_address(tmp_path):
    config = pipeline_config("proposer.model=tiny")
    words = shlex.split(sweep_command(tmp_path / "sweeps" / "name", TAU_K, config))

    assert words[6:8] == ["--proposer", "URL"]


def test_count_kept_counts_as_the_filter_decides(tmp_path):
    stories = [
        CallStory(candidate_id="right", losses=(3.0, 2.5, 1.0), is_right=True),
        CallStory(candidate_id="wrong", losses=(3.0, 2.5, 1.0), is_right=False, argument="1"),
        CallStory(candidate_id="unknown", losses=(3.0, 2.5, 2.0), argument="2"),
        CallStory(candidate_id="beaten", losses=(3.0, 2.5, 1.0), controls=(0.5, None)),
    ]
    stages = write_annotation(tmp_path, [document()], stories)
    [scored_stage] = [stage for stage in stages if stage.stage == "score"]
    manifest = write_manifest(scored_stage, tmp_path, {})

    assert count_kept.fn([manifest], (0.5, 1.5, 1.6))["Calculator"] == {
        0.5: {"kept": 3, "checkable": 2, "right": 1},
        1.5: {"kept": 2, "checkable": 2, "right": 1},
        1.6: {"kept": 0, "checkable": 0, "right": 0},
    }


def test_count_parameters_of_a_folder(tiny_llama_folder, tmp_path):
    from transformers import AutoModelForCausalLM

    ref = ModelRef(path=str(tiny_llama_folder), digest="d", dtype="float32")
    model = AutoModelForCausalLM.from_pretrained(tiny_llama_folder)

    assert count_parameters.fn(ref) == sum(p.numel() for p in model.parameters())
    assert count_parameters.fn(dataclasses.replace(ref, path=str(tmp_path))) is None


def test_cell_summary_is_json(tmp_path):
    summaries = [result.summary() for result in results(tmp_path, TAU_K)]

    assert json.loads(json.dumps(summaries)) == summaries
    assert summaries[0]["tools"] == {
        "Calculator": {"filtering_threshold": 0.5, "kept": 1994, "checkable": 8, "right": 6}
    }


def test_sweep_figures_of_texts_do_not_ask_for_k(tmp_path):
    found = [
        dataclasses.replace(
            result, answered=(), scores=tuple(s for s in result.scores if s["arm"] != "on")
        )
        for result in results(tmp_path, TAU_K)
    ]
    drawn = sweep_figures(indexed(tmp_path / "calls.duckdb", found), TAU_K)

    assert sorted(drawn) == ["kept_by_tau_f", "right_by_tau_f", "webquestions_by_tau_f"]
    (axes,) = drawn["webquestions_by_tau_f"].axes
    assert [container.get_label() for container in axes.containers] == ["M*, calls disabled", "M"]
