"""The tuned model in MLflow: stored once, loaded as a pyfunc, served over REST."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from tasks.inference import describe
from tasks.tracking.register import registration
from tasks.tracking.registry import REGISTERED_MODEL, registered
from tasks.tracking.store import EXPERIMENT, tracking_uri
from tests.support.tuned_folder import tuned_folder
from tests.support.waiting import wait_until
from toolformer_core.config.runtime import Runtime
from toolformer_core.transformers_lm.loading import resolve_model

# MLflow warns of its own type hints, and that it is given no example.
pytestmark = pytest.mark.filterwarnings("ignore")

COMPLETION = " [Calculator(3 + 4) -> 7] 7. 5 + 6 is."


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    return Runtime(root=home / "run", home=home)


@pytest.fixture(scope="module")
def client(runtime):
    return MlflowClient(tracking_uri(runtime))


@pytest.fixture(scope="module")
def experiment(client, runtime):
    return client.create_experiment(EXPERIMENT, (runtime.home / "mlartifacts").as_uri())


@pytest.fixture(scope="module")
def model(calling_llama_folder, runtime):
    folder = tuned_folder(calling_llama_folder, runtime.home / "tuned")
    return resolve_model(describe(folder).tuned, runtime.home, "cpu")


@pytest.fixture(scope="module")
def version(client, experiment, model, runtime):
    """The registered version of the model, logged with a run."""
    registered(client, client.create_run(experiment).info.run_id, model)
    [version] = client.search_model_versions(f"name = '{REGISTERED_MODEL}'")
    return version


@pytest.fixture(scope="module")
def pyfunc(version, runtime):
    from mlflow.pyfunc import load_model

    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TOOLFORMER_HOME", str(runtime.home))
        return load_model(version.source)


def told(row):
    return [(c["tool"], c["argument"], c["result"]) for c in json.loads(row["calls"])]


def test_registered_same_model_is_stored_once(client, experiment, version, model, runtime):
    run = client.create_run(experiment).info.run_id
    registered(client, run, model)
    assert len(client.search_model_versions(f"name = '{REGISTERED_MODEL}'")) == 1
    assert len(client.search_logged_models([experiment])) == 1
    found = client.get_run(run)
    assert found.data.tags["registered_model"] == f"{REGISTERED_MODEL}/{version.version}"
    assert [m.model_id for m in found.outputs.model_outputs] == [version.tags["model_id"]]


def test_registered_other_decoding_is_another_version(client, experiment, version, model, runtime):
    file = Path(model.path) / "toolformer.json"
    described = file.read_text()
    file.write_text(described.replace('"call_top_k": 1', '"call_top_k": 3'))
    try:
        registered(client, client.create_run(experiment).info.run_id, model)
    finally:
        file.write_text(described)
    found = client.search_model_versions(f"name = '{REGISTERED_MODEL}'")
    assert {int(v.version) for v in found} == {1, 2}


def test_registered_again_goes_on_with_what_was_begun(
    client, experiment, version, model, monkeypatch
):
    run, file = client.create_run(experiment).info.run_id, Path(model.path) / "toolformer.json"
    described = file.read_text()
    file.write_text(described.replace('"call_top_k": 1', '"call_top_k": 5'))
    try:
        with monkeypatch.context() as patched:
            patched.setattr(client, "log_model_artifacts", away)
            with pytest.raises(MlflowException):
                registered(client, run, model)
        known = registered(client, run, model)
    finally:
        file.write_text(described)
    [logged] = client.search_logged_models([experiment], f"source_run_id = '{run}'")
    assert (logged.model_id, str(logged.status)) == (known.tags["model_id"], "READY")


def away(*_):
    raise MlflowException("the store has gone away")


def test_finished_pipeline_has_registered_its_model(finished):
    project, _ = finished
    tuned = resolve_model(describe(project.root / "model").tuned, project.runtime.home, "cpu")
    facts = registration(tuned, project.runtime)
    client = MlflowClient(tracking_uri(project.runtime))
    tags = client.get_run(facts["mlflow_run"]).data.tags
    assert tags["registered_model"] == facts["registered_model"]
    name, number = facts["registered_model"].split("/")
    version = client.get_model_version(name, number)
    [folder] = (Path(version.source.removeprefix("file://")) / "data").iterdir()
    assert {"README.md", "config.json"} <= {path.name for path in folder.iterdir()}
    described, original = (
        json.loads((place / "toolformer.json").read_text())
        for place in (folder, project.root / "model")
    )
    assert described == original


def test_pyfunc_takes_lists_and_frames(pyfunc):
    import pandas as pd

    prompts = ["3 + 4 is", "7 / 0 is"]
    rows = pyfunc.predict(prompts)
    assert rows.equals(
        pyfunc.predict(pd.DataFrame({"prompt": prompts})).assign(calls=rows["calls"])
    )
    assert list(rows.columns) == ["text", "answer", "calls"]
    assert (rows.text[0], rows.answer[0]) == (COMPLETION, " 7. 5 + 6 is.")
    assert told(rows.loc[0]) == [("Calculator", "3 + 4", "7")]
    assert json.loads(rows.calls[1])[0]["outcome"] == "rejected"


def test_pyfunc_params_decide_on_the_decoding(pyfunc):
    rows = pyfunc.predict(["3 + 4 is"], params={"max_calls": 0, "max_new_tokens": 3})
    assert told(rows.loc[0]) == []
    drawn = [
        pyfunc.predict(["The"], params={"temperature": 2.0, "seed": seed}).text[0]
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_pyfunc_bad_param_is_refused(pyfunc):
    with pytest.raises(Exception, match=r"top_p = 3.0: Input should be less than or equal to 1"):
        pyfunc.predict(["x"], params={"top_p": 3.0})


@pytest.mark.slow
def test_mlflow_models_serve_answers_with_the_result_of_a_tool(version, runtime):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    served = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"),
            *("-m", f"models:/{REGISTERED_MODEL}/{version.version}", "--port", str(port)),
        ],
        env={
            **os.environ,
            "PATH": path,
            "MLFLOW_TRACKING_URI": tracking_uri(runtime),
            "TOOLFORMER_HOME": str(runtime.home),
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def is_up():
        assert served.poll() is None
        try:
            return httpx.get(f"http://127.0.0.1:{port}/ping").is_success
        except httpx.TransportError:
            return False

    try:
        wait_until(is_up, seconds=200)
        answer = httpx.post(
            f"http://127.0.0.1:{port}/invocations",
            json={"inputs": ["3 + 4 is"], "params": {"max_new_tokens": 24}},
            timeout=60,
        )
        [row] = answer.json()["predictions"]
        assert row["text"] == COMPLETION
        assert told(row) == [("Calculator", "3 + 4", "7")]
    finally:
        os.killpg(served.pid, signal.SIGTERM)
        served.wait(60)
