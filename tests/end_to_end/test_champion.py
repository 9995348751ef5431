"""The gate on real models and a real registry: the first is let in, one no better is not."""

import shutil

import pytest
from mlflow.tracking import MlflowClient

from flows.champion import train_champion
from flows.deployed import Place, Training, training_config, weekly_training
from flows.starting.claim import stage_manifest
from tasks.gc import needed_folders
from tasks.output.record import read_run
from tasks.trace import trace_call
from tasks.tracking.register import CHAMPION, champion_model
from tasks.tracking.registry import REGISTERED_MODEL
from tasks.tracking.store import EXPERIMENT, tracking_uri
from toolformer_core.config.runtime import Runtime
from toolformer_core.errors import TransientStorageError
from toolformer_core.evaluation.gate import GateConfig
from toolformer_core.models import folder_digest
from toolformer_core.notation import ParsedCall
from toolformer_core.shards import read_manifest


def test_champion_gives_way_only_to_a_better_model(finished, tmp_path):
    project, _ = finished
    shutil.copy(project.runtime.home / "mlflow.db", tmp_path)  # a registry of its own
    runtime = Runtime(
        root=tmp_path / "weekly",
        home=project.runtime.home,
        tracking=f"sqlite:///{tmp_path}/mlflow.db",
    )
    gate, training = GateConfig(), Training(data=str(project.root), limit=3)
    client = MlflowClient(tracking_uri(runtime))

    place = Place(out=str(runtime.root), tracking=tracking_uri(runtime))
    weekly_training(training, gate, place)
    assert gate_tags(client) == {("passed", "there is no champion yet")}
    crowned = client.get_model_version_by_alias(REGISTERED_MODEL, CHAMPION)
    tuned = runtime.root / "model"
    champion = champion_model.fn(runtime)
    assert champion.digest == folder_digest(tuned, "float32")

    other = training.model_copy(update={"changes": ["finetune.seed=9"]})
    run = read_run(project.root)
    augmented, documents = (
        stage_manifest(run, stage, project.root) for stage in ("augment", "corpus")
    )
    config = training_config(run.config, other, gate)
    second = train_champion(augmented, documents, config, gate, runtime)
    assert not second.passed
    assert "one_step" in second.reason
    assert folder_digest(tuned, "float32") != champion.digest
    again = client.get_model_version_by_alias(REGISTERED_MODEL, CHAMPION)
    assert again.version == crowned.version
    [run] = client.search_runs(
        [client.get_experiment_by_name(EXPERIMENT).experiment_id],
        f"tags.gate = 'not passed' and tags.gate_reason = '{second.reason}'",
    )
    assert run.data.metrics["gate/tool_p_value"] == second.figures["tool_p_value"]
    # The champion had answered all of it before.
    asked = [read_manifest(path) for path in runtime.root.glob("evaluate/*/*/manifest.json")]
    assert any(ref.num_cached == len(ref.shards) for ref in asked)
    # What was compared with is kept by gc, and what it was tuned on is traced to the other folder.
    needed, copy = needed_folders(runtime.root), f"champion/{crowned.version}/data"
    rivals = [p for p in runtime.root.glob("evaluate/*/*/manifest.json") if copy in p.read_text()]
    assert rivals
    assert {copy, *(str(p.parent.relative_to(runtime.root)) for p in rivals)} <= needed
    call = ParsedCall(tool="Calendar", argument="", result=None)
    traced = trace_call(runtime.root, call, 1, runtime)
    assert traced["augmented"]["folder"] == str(augmented.parent)
    assert traced["model"]["registered_model"] is None  # it did not pass


def gate_tags(client):
    """What the gate said, of all runs."""
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    runs = client.search_runs([experiment])
    return {(t["gate"], t["gate_reason"]) for t in (run.data.tags for run in runs) if "gate" in t}


def test_champion_is_asked_of_a_registry_that_is_there(tmp_path):
    runtime = Runtime(root=tmp_path, home=tmp_path, tracking="http://127.0.0.1:9")
    with pytest.raises(TransientStorageError, match=r"MLflow at http://127\.0\.0\.1:9 is needed"):
        champion_model.fn(runtime)
