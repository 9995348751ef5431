"""A sweep of tau_f and k over a finished run: what it computes, shares, tracks and leaves alone."""

import json

import pytest
from mlflow.tracking import MlflowClient

from flows.sweep import sweep
from tasks.tracking.store import EXPERIMENT, tracking_uri
from toolformer_core.config.overrides import edit
from toolformer_core.config.variations import vary_threshold, vary_top_k
from toolformer_core.errors import ConfigError

BENCHMARKS = "evaluate.benchmarks=[dateset]"
CACHED = ("corpus", "sample", "execute", "score")


@pytest.fixture(scope="module")
def left_alone(finished):
    """What the run had in its folder before any sweep."""
    root = finished[0].root
    names = ("run.json", "calls.duckdb", "report.html", "cassette.parquet")
    return {name: (root / name).read_bytes() for name in names} | {
        "model": (root / "model").readlink()
    }


@pytest.fixture(scope="module")
def swept(finished, left_alone):
    """The summary of a sweep in the folder of the finished run."""
    project, _ = finished
    config = edit(project.config, [BENCHMARKS])
    return sweep(
        config, [vary_threshold(["0.0", "0.5", "9"]), vary_top_k(["1", "10"])], project.runtime
    )


def test_sweep_counts_and_scores_every_cell(swept):
    cells = swept["cells"]
    kept = [(cell["values"]["tau_f"], cell["values"]["k"], cell["kept"]) for cell in cells]

    assert [(tau_f, k) for tau_f, k, _ in kept] == [(t, k) for t in (0.0, 0.5, 9) for k in (1, 10)]
    assert kept[0][2] > kept[2][2] > kept[4][2] == 0
    assert [cell["reason"] for cell in cells] == [""] * 4 + ["no call was kept"] * 2
    arms = {(score["benchmark"], score["arm"]) for score in cells[0]["scores"]}
    assert arms == {("dateset", arm) for arm in ("base", "disabled", "on")}
    assert cells[4]["scores"] == []


def test_sweep_shares_what_the_run_and_the_cells_have_in_common(swept):
    work = swept["work"]

    for stage in CACHED:
        assert work[stage]["done"] == 1
        assert work[stage]["shards"] == work[stage]["shards_cached"]
    # The run has trained at 0.0, and evaluated that at k = 1, which its held-out text chose.
    assert work["finetune"] == {"wanted": 4, "done": 2, "shards": 2, "shards_cached": 1}
    # Base once, disabled per model, on per model and k.
    assert work["evaluate"] == {"wanted": 12, "done": 7, "shards": 7, "shards_cached": 3}


def test_sweep_leaves_the_run_as_it_was(finished, swept, left_alone):
    root = finished[0].root

    for name, content in left_alone.items():
        now = (root / name).readlink() if name == "model" else (root / name).read_bytes()
        assert now == content


def tracked(project, thresholds):
    """The MLflow runs of a sweep of these thresholds: its own, and those of its cells."""
    client = MlflowClient(tracking_uri(project.runtime))
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    [parent] = client.search_runs([experiment], f"params.tau_f = '{thresholds}'")
    nested = client.search_runs(
        [experiment], f"tags.mlflow.parentRunId = '{parent.info.run_id}'", order_by=["start_time"]
    )
    return client, parent, nested


def test_sweep_is_tracked_as_a_run_with_a_nested_run_per_cell(finished, swept):
    client, parent, nested = tracked(finished[0], "0.0, 0.5, 9")

    assert {run.info.status for run in (parent, *nested)} == {"FINISHED"}
    params = [(float(run.data.params["tau_f"]), int(run.data.params["k"])) for run in nested]
    assert params == [(t, k) for t in (0.0, 0.5, 9.0) for k in (1, 10)]
    for run, cell in zip(nested, swept["cells"], strict=True):
        counts = cell["tools"]["Calendar"]
        assert float(run.data.params["tau_f.Calendar"]) == counts["filtering_threshold"]
        assert run.data.metrics["filter/Calendar/kept_count"] == counts["kept"]
        values = {f"evaluate/{s['benchmark']}/{s['arm']}_value": s["value"] for s in cell["scores"]}
        assert values.items() <= run.data.metrics.items()
        assert ("finetune/dev_loss_nats" in run.data.metrics) == bool(values)
    drawn = {artifact.path for artifact in client.list_artifacts(parent.info.run_id, "figures")}
    assert "figures/dateset_by_k.png" in drawn


def test_sweep_that_fails_leaves_no_run_open(project, prefect_server):
    config = edit(project.config, [f"corpus.sources=[{project.folder / 'gone.jsonl'}]"])

    with pytest.raises(ConfigError, match=r"gone\.jsonl"):
        sweep(config, [vary_threshold(["0.1", "0.2"])], project.runtime)

    _, parent, nested = tracked(project, "0.1, 0.2")
    assert [run.info.status for run in (parent, *nested)] == ["FAILED", "FAILED"]


def test_sweep_of_cells_that_are_there_computes_nothing(finished, swept, invoke):
    project, _ = finished
    command = ("sweep", "--config", project.config_file, "--out", project.root)
    grid = ("--filtering-threshold", "0.5", "--call-top-k", "1", "--set", BENCHMARKS)
    code, output, errors = invoke(*command, *grid, "--json")

    assert code == 0, errors
    again = json.loads(output)
    for tally in again["work"].values():
        assert tally["shards"] == tally["shards_cached"]
    assert again["cells"] == [swept["cells"][2]]


def test_sweep_index_answers_queries_of_the_command_line(swept, invoke):
    folder = swept["index"].rpartition("/")[0]
    sql = "SELECT cell, count(*) AS n FROM items GROUP BY cell ORDER BY cell"
    code, output, _ = invoke("calls", "--out", folder, "--sql", sql, "--json")

    assert code == 0
    assert json.loads(output) == [{"cell": cell, "n": 3 * 3} for cell in range(4)]


def test_sweep_of_thresholds_alone_trains_nothing_and_prints_its_cells(finished, swept, invoke):
    project, _ = finished
    command = ("sweep", "--config", project.config_file, "--out", project.root)
    code, output, errors = invoke(*command, "--filtering-threshold", "0.5")

    assert code == 0, errors
    assert "finetune" not in output
    counts = [str(tool["kept"]) for tool in swept["cells"][2]["tools"].values()]
    assert ["0.5", *counts] in [line.replace("\u2502", " ").split() for line in output.splitlines()]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), "nothing to sweep; pass --filtering-threshold"),
        (("--filtering-threshold", "0.3,0.3"), "is there twice"),
        (("--vary", "score.weights=1|2"), "unknown setting 'score.weights'"),
        (("--call-top-k", "1", "--vary", "evaluate.benchmarks=[trivia]|[dateset]"), "trivia"),
    ],
)
def test_sweep_bad_grid_is_one_line(project, invoke, options, expected):
    code, output, errors = invoke("sweep", "--config", project.config_file, *options)

    assert (code, output) == (2, "")
    assert errors.count("\n") == 1
    assert expected in errors
