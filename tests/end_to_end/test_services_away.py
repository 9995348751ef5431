"""Real servers that go away in the middle of a run, and come back."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest

from tasks.tracking import store as track_store
from tests.end_to_end.test_pipeline import augmented_bytes
from tests.support.prefect_service import ROOT, serving, wait_for
from tests.support.tracked_run import held, tell
from tests.support.tuned_folder import tuned_folder
from toolformer_core.config.base import ModelConfig
from toolformer_core.config.runtime import Runtime
from toolformer_core.transformers_lm.loading import resolve_model

pytestmark = [pytest.mark.services, pytest.mark.timeout(1800)]

AWAY_SECONDS = 25


class MlflowServer:
    """MLflow's server on a port and a database of its own, as `make ui` starts it."""

    def __init__(self, folder):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.folder = folder
        self.process = None

    @property
    def address(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        command = ["-m", "mlflow", "server", "--port", str(self.port), "--workers", "1"]
        store = f"sqlite:///{self.folder}/server.db"
        with (self.folder / "server.log").open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command, "--backend-store-uri", store],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_for(self.answers, 180, "MLflow answers")

    def answers(self):
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.address}/health", timeout=5).is_success
        return False

    def stop(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)


@pytest.fixture
def server(tmp_path):
    server = MlflowServer(tmp_path)
    server.start()
    yield server
    server.stop()


def test_mlflow_server_that_goes_away_in_the_middle_gets_all_in_the_end(
    finished, calling_llama_folder, server, tmp_path, invoke, monkeypatch
):
    """Back before the run ends, it has all at its end; back later, `toolformer sync` brings it."""
    monkeypatch.setattr(track_store, "_ask_again", {})
    project, manifests = finished
    folder = tuned_folder(calling_llama_folder, tmp_path / "tuned")
    model = resolve_model(ModelConfig(name_or_path=str(folder), dtype="float32"), tmp_path, "cpu")
    runtime = Runtime(root=tmp_path / "run", home=project.runtime.home, tracking=server.address)

    def restart():
        server.stop()
        server.start()

    undisturbed = held(server.address, tell(project, manifests, model, runtime, list))
    back = tell(project, manifests, model, runtime, restart)
    assert not any((runtime.root / "tracking").glob("*/"))
    assert held(server.address, back) == undisturbed

    gone = tell(project, manifests, model, runtime, server.stop)
    assert invoke("sync", "--out", runtime.root)[0] == 1
    server.start()
    started = held(server.address, gone)
    assert started[""]["status"] == "RUNNING"
    assert started["/corpus"] == undisturbed["/corpus"]
    code, output, errors = invoke("sync", "--out", runtime.root)
    assert code == 0, errors
    assert held(server.address, gone) == undisturbed
    assert "records" in output


def test_prefect_server_that_is_restarted_in_the_middle_costs_no_shard(finished, tmp_path):
    """The run waits for it; if a limit is first asked for meanwhile it ends with a line instead."""
    project, manifests = finished
    root = tmp_path / "run"
    command = [
        *(sys.executable, "-c", "from flows.cli.main import main; main()", "annotate"),
        *("--config", str(project.config_file), "--out", str(root), "--json"),
    ]

    def annotate(service):
        with (tmp_path / "errors").open("w") as errors:
            environment = {**service.environment, "PREFECT_LOGGING_LEVEL": "CRITICAL"}
            return subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    with serving(tmp_path) as service:
        run = annotate(service)
        wait_for(lambda: any(root.glob("sample/*/*/part-*.parquet")), 300, "a shard is sampled")
    before = {path: path.stat().st_mtime_ns for path in root.glob("sample/*/*/part-*.parquet")}
    time.sleep(AWAY_SECONDS)  # how long the server is away
    with service.started("server", "prefect", "server", "start", "--port", str(service.port)):
        output, _ = run.communicate(timeout=900)
        if run.returncode:
            said = (tmp_path / "errors").read_text()
            assert run.returncode == 1, said
            assert "toolformer: Prefect's server does not answer" in said
            assert "Traceback" not in said
            wait_for(lambda: is_up(service), 180, "the server answers")
            again = annotate(service)
            output, _ = again.communicate(timeout=900)
            assert again.returncode == 0, (tmp_path / "errors").read_text()
    assert json.loads(output)["funnel"]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert augmented_bytes(root.glob("augment/*/*/manifest.json")) == augmented_bytes(manifests)


def is_up(service):
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{service.api}/health", timeout=5).is_success
    return False
