"""A Prefect server, deployments and a worker, started as the Makefile starts them.

Everything lies in one folder and on a port of its own; what is started here is ended here.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]
_QUICK = {
    "PREFECT_WORKER_QUERY_SECONDS": "2",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # the least that Prefect takes
    "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "true",
    "PREFECT_SERVER_SERVICES_TRIGGERS_LOOP_SECONDS": "2",
    "PREFECT_LOGGING_LEVEL": "INFO",
}


@dataclass(frozen=True)
class Service:
    """A running server with its environment; `folder` holds its state and logs."""

    folder: Path
    port: int

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            **_QUICK,
            "PREFECT_HOME": str(self.folder / "prefect"),
            "PREFECT_API_URL": self.api,
            "PREFECT_SERVER_UI_API_URL": self.api,
            "TOOLFORMER_HOME": str(self.folder / "home"),
            "TOOLFORMER_POOL": "toolformer",
            "TOOLFORMER_WORK": str(self.folder),
        }

    def run(self, *arguments: str, **environment: str) -> str:
        """Run a Python module in the project's folder; its output."""
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=ROOT,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def post(self, path: str, **content: object) -> list[dict]:
        """What the API answers to a filter."""
        answer = httpx.post(f"{self.api}/{path}", json=content, timeout=180)
        answer.raise_for_status()
        return answer.json()

    def flow_runs(self, deployment: str) -> list[dict]:
        """Runs of a deployment that have started, the earliest first."""
        return self.post(
            "flow_runs/filter",
            deployments={"name": {"any_": [deployment]}},
            flow_runs={"start_time": {"is_null_": False}},
            sort="START_TIME_ASC",
        )

    def let_schedule_fire(self, deployment: str, *, fires: bool) -> None:
        """Resume or pause a deployment; its runs that are due but have not begun are dropped."""
        [found] = self.post("deployments/filter", deployments={"name": {"any_": [deployment]}})
        action = "resume" if fires else "pause"
        path = f"{self.api}/deployments/{found['id']}/{action}_deployment"
        httpx.post(path, timeout=180).raise_for_status()

    def is_idle(self, deployment: str) -> bool:
        """Whether no run of a deployment has begun and not ended."""
        state = {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}
        return not self.post(
            "flow_runs/filter",
            deployments={"name": {"any_": [deployment]}},
            flow_runs={"state": state},
        )

    @contextlib.contextmanager
    def started(self, name: str, *arguments: str) -> Iterator[subprocess.Popen]:
        """A module in a process group of its own, killed at the end; it logs to NAME.log."""
        with (
            (self.folder / f"{name}.log").open("a") as log,
            subprocess.Popen(
                [sys.executable, "-m", *arguments],
                cwd=ROOT,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            ) as process,
        ):
            try:
                yield process
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)


def wait_for(condition, seconds: float, what: str):
    """The first true value of the condition."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(2)
    return value


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Service]:
    """A server that answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    service = Service(folder, port)
    (folder / "prefect").mkdir()

    def answers() -> bool:
        try:
            return httpx.get(f"{service.api}/health", timeout=5).is_success
        except httpx.HTTPError:
            return False

    with service.started("server", "prefect", "server", "start", "--port", str(port)):
        wait_for(answers, 180, "the server answers")
        yield service
