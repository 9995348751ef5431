"""`toolformer finetune` on a finished run: the control, mixing, curves in MLflow, bad input."""

import json

import pytest
from mlflow.tracking import MlflowClient
from prefect import flow
from transformers import AutoModelForCausalLM

from flows.starting.claim import claim_output
from tasks.tracking import runs as track
from tasks.tracking.runs import live_metrics
from tasks.tracking.store import EXPERIMENT, tracking_uri
from tests.end_to_end.test_cli import assert_one_line
from tests.support.finetune_job import two_on_cpu


def child_runs(runtime):
    """(parent, child) of every tracked fine-tuning, newest first."""
    client = MlflowClient(tracking_uri(runtime))
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    runs = client.search_runs([experiment], "attributes.run_name = 'finetune'")
    return client, [(client.get_run(r.data.tags["mlflow.parentRunId"]), r) for r in runs]


def steps(client, run, key):
    return [point.step for point in client.get_metric_history(run.info.run_id, key)]


def test_finetune_leaves_a_model_and_its_curves_and_so_does_a_cache_hit(
    invoke, finished, tmp_path, monkeypatch
):
    """Live: figures are sent at every step here, before the run is completed from its result."""
    project, _ = finished
    monkeypatch.setattr(track, "_LIVE_SECONDS", 0.0)
    command = ["finetune", "--data", project.root, "--out", tmp_path / "tuned"]
    code, output, errors = invoke(*command)
    assert code == 0, errors
    assert output == f"model: {tmp_path / 'tuned' / 'model'}\n"
    AutoModelForCausalLM.from_pretrained(tmp_path / "tuned" / "model")
    client, [(parent, child), *_] = child_runs(project.runtime)
    assert (parent.info.status, child.info.status) == ("FINISHED", "FINISHED")
    assert steps(client, child, "finetune/train_loss_nats") == [1, 2]
    assert steps(client, child, "finetune/learning_rate") == [1, 2]
    assert invoke(*command)[0] == 0
    client, [(second_parent, second), *_] = child_runs(project.runtime)
    assert second_parent.info.run_id != parent.info.run_id
    assert steps(client, second, "finetune/train_loss_nats") == [1, 2]
    assert steps(client, second, "finetune/learning_rate") == []  # told only while training
    assert second.data.metrics["finetune/chosen_step"] == child.data.metrics["finetune/chosen_step"]


def test_finetune_control_without_calls_trains_on_the_same_texts(invoke, finished, tmp_path):
    project, _ = finished
    options = ["--data", project.root, "--without-calls", "--set", "finetune.plain_text_share=0.2"]
    code, _, errors = invoke("finetune", *options, "--out", tmp_path / "control")
    assert code == 0, errors
    held = json.loads((tmp_path / "control" / "run.json").read_text())["config"]["finetune"]
    assert (held["without_calls"], held["plain_text_share"]) == (True, 0.2)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--launcher", "accelerate"], "--launcher accelerate: no configuration"),
        (["--config", "two.yaml"], "--config two.yaml: of which launcher?"),
        (["--launcher", "accelerate", "--config", "two.yaml"], "--config two.yaml: no such file"),
    ],
)
def test_finetune_launcher_options_that_do_not_fit_are_one_line(
    invoke, finished, tmp_path, options, expected
):
    outcome = invoke("finetune", "--data", finished[0].root, "--out", tmp_path / "out", *options)
    assert_one_line(outcome, expected)


def test_finetune_error_of_launched_processes_is_one_line(invoke, finished, tmp_path):
    outcome = invoke(
        *("finetune", "--data", finished[0].root, "--out", tmp_path / "out"),
        *("--launcher", "accelerate", "--config", two_on_cpu(tmp_path)),
        *("--set", "finetune.batch_size=3"),
    )
    assert_one_line(outcome, "finetune.batch_size 3 cannot be shared by 2 processes")


def test_finetune_too_few_plain_texts_are_one_line(invoke, finished, tmp_path):
    outcome = invoke(
        *("finetune", "--data", finished[0].root, "--out", tmp_path / "out"),
        *("--set", "finetune.plain_text_share=0.95"),
    )
    assert_one_line(outcome, "finetune.plain_text_share 0.95", "lower it")
    claim_output(finished[0].config, tmp_path / "out", update=False)  # the folder is still free
    _, [(parent, child), *_] = child_runs(finished[0].runtime)
    assert (parent.info.status, child.info.status) == ("FAILED", "FAILED")


@pytest.mark.parametrize("command", ["finetune", "run"])
@pytest.mark.parametrize("device", ["cuda:1", "nonsense"])
def test_finetune_on_a_device_that_it_does_not_take_is_one_line(
    invoke, finished, tmp_path, command, device
):
    project = finished[0]
    options = {"finetune": ["--data", project.root], "run": ["--config", project.config_file]}
    outcome = invoke(command, *options[command], "--out", tmp_path / "out", "--device", device)
    assert_one_line(outcome, f"--device {device}: fine-tuning takes cpu or cuda")
    assert not (tmp_path / "out").exists()


def test_live_metrics_of_a_store_that_is_away_do_not_stop_the_run(finished, tmp_path):
    away = finished[0].runtime.model_copy(
        update={"root": tmp_path, "tracking": "http://127.0.0.1:9"}
    )

    @flow
    def train():
        with live_metrics("run", "finetune", away) as report:
            report(1, {"train_loss": 2.0})
        return "trained"

    assert train() == "trained"
