"""Kills: SIGKILL at random moments, then resume: is C* the same, byte for byte?

Of three kinds in turn: the process of `toolformer annotate` in a cold TOOLFORMER_HOME; the worker
of a deployment, every other time with the flow process that it has started; a process that a tool
runs in. A moment is drawn uniformly over the time that an undisturbed run of that kind takes (that
a process for tools is there, for the third); a run that ends before its moment is the measure from
then on, and another one is killed. The run is repeated, by a new run of the deployment for the
second; the third has to go on by itself. The model is tiny, everything else is real.
"""

import argparse
import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml
from rich.console import Console
from rich.table import Table

from tests.end_to_end.conftest import corpus_rows, settings_of
from tests.support import tiny_model
from tests.support.builders import RECORD_TYPES
from tests.support.prefect_service import ROOT, Service, serving, wait_for
from toolformer_core.shards import StageRef, read_manifest, read_shard

KINDS = ("flow process", "worker", "tool process")
STAGES = ("corpus", "sample", "execute", "score", "filter", "augment")
DEPLOYMENT = "nightly-annotation"
SILENT_SECONDS = 75
Figures = dict[str, Any]
Shards = dict[Path, tuple[int, int]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)


def main(arguments: argparse.Namespace) -> Figures:
    """Print the table; its rows."""
    os.environ |= {"FAULT": "slow", "PYTHONPATH": str(ROOT)}
    draw = random.Random(arguments.seed)
    rows: list[Figures] = []
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        prepare(folder)
        service = stack.enter_context(deployed(folder / "service"))
        undisturbed = Undisturbed(folder, service)
        print(f"undisturbed: {undisturbed.seconds}", flush=True)
        for number in range(arguments.times):
            kind, share = KINDS[number % len(KINDS)], draw.random()
            row, root = None, folder / "runs" / str(number)
            while row is None:
                root = root.with_name(f"{root.name}-")
                moment = share * undisturbed.seconds[kind]
                try:
                    row = killed(kind, number, moment, root, service)
                except EndedBeforeError as early:
                    undisturbed.seconds[kind] = early.seconds
            row["identical"] = augmented_bytes(root) == undisturbed.augmented
            rows.append({"kind": kind, "moment, s": round(moment, 1), **row})
            print(rows[-1], flush=True)
        states = final_states(service)
    show(rows)
    print(f"flow runs of the deployment: {states}")
    return {"undisturbed": undisturbed.seconds, "kills": rows, "flow runs": states}


class EndedBeforeError(Exception):
    """A run was through before it could be killed, after so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


def show(rows: list[Figures]) -> None:
    """The table."""
    table = Table(title="SIGKILL, then again", title_justify="left")
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console(width=150).print(table)


def prepare(folder: Path) -> None:
    """A tiny model, texts, and settings with a tool in processes of its own that takes its time."""
    model = tiny_model.train_on(tiny_model.tiny_llama(), tiny_model.annotation_texts(), 60)
    texts = folder / "texts.jsonl"
    texts.write_text("".join(f"{row}\n" for row in corpus_rows()))
    content = settings_of(texts, tiny_model.save(model, folder / "model"))
    note = {"kind": "python", "function": "tests.support.ailing_tool:note"}
    content["tools"] |= {"own": [note], "enabled": [*content["tools"]["enabled"], "note"]}
    (folder / "settings.yaml").write_text(yaml.safe_dump(content))
    (folder / "runs").mkdir()


@contextlib.contextmanager
def deployed(folder: Path) -> Iterator[Service]:
    """A server with the nightly deployment, without schedule or limit of runs at a time."""
    folder.mkdir()
    plan = yaml.safe_load((ROOT / "deployments/prefect.yaml").read_text())
    [nightly] = [d for d in plan["deployments"] if d["name"] == DEPLOYMENT]
    nightly |= {"schedules": [], "concurrency_limit": None}
    nightly["work_pool"]["job_variables"]["env"]["TOOLFORMER_HOME"] = "home"
    (folder / "prefect.yaml").write_text(yaml.safe_dump({**plan, "deployments": [nightly]}))
    with serving(folder) as service:
        service.run("deployments", "--silent-seconds", str(SILENT_SECONDS))
        deploy = ("deploy", "--all", "--prefect-file", str(folder / "prefect.yaml"))
        service.run("prefect", "--no-prompt", *deploy)
        yield service


class Undisturbed:
    """One run of each kind to its end: seconds, and the bytes of C*, which are the same in all."""

    def __init__(self, folder: Path, service: Service) -> None:
        roots = {kind: folder / "runs" / kind.replace(" ", "-") for kind in KINDS}
        self.seconds: dict[str, float] = {}
        with annotate(roots["flow process"]) as run:
            self.seconds["flow process"] = finish(run)
        with working(service):
            self.seconds["worker"] = finish_night(service, start_night(service, roots["worker"]))
        root = roots["tool process"]
        with annotate(root, home=folder / "runs" / "home") as run:
            wait_for_tools(run)
            started = ended = time.monotonic()
            while run.poll() is None:
                ended = time.monotonic() if tool_processes(run.pid) else ended
                time.sleep(0.1)
            finish(run)
        self.seconds["tool process"] = ended - started
        self.augmented = augmented_bytes(root)
        assert self.augmented
        assert all(augmented_bytes(other) == self.augmented for other in roots.values())


def killed(kind: str, number: int, moment: float, root: Path, service: Service) -> Figures:
    """One kill and what came after it."""
    if kind == "flow process":
        return kill_flow(moment, root)
    if kind == "worker":
        return kill_worker(moment, root, service, with_flow=number // len(KINDS) % 2 == 1)
    return kill_tool(moment, root)


def kill_flow(moment: float, root: Path) -> Figures:
    """Kill the process of the command line alone, then repeat the command."""
    with annotate(root) as run:
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.wait(moment)
            raise EndedBeforeError(finish(run))
        children = psutil.Process(run.pid).children(recursive=True)
        run.kill()
        run.wait()
        _, left = psutil.wait_procs(children, 20)
        for orphan in left:
            orphan.kill()
    before, stage = shards(root), stage_of(root)
    with annotate(root) as again:
        seconds = finish(again)
    note = f"{len(children) - len(left)} of {len(children)} children ended by themselves"
    return row(root, before, stage, seconds, note)


def kill_worker(moment: float, root: Path, service: Service, *, with_flow: bool) -> Figures:
    """Kill a worker, with the flow process or not; a new one, and a new run of the deployment."""
    with working(service) as worker:
        first = start_night(service, root)
        with contextlib.suppress(AssertionError):  # not before the moment
            raise EndedBeforeError(finish_night(service, first, moment))
        flow_processes = psutil.Process(worker.pid).children(recursive=True)
        worker.kill()
        worker.wait()
        for process in flow_processes if with_flow else ():
            process.kill()
        before, stage = shards(root), stage_of(root)
        with working(service):
            seconds = finish_night(service, start_night(service, root))
            wait_for(lambda: not any(map(is_running, flow_processes)), 300, "the first run ends")
            [run] = service.post("flow_runs/filter", flow_runs={"id": {"any_": [first]}})
    what = "and its flow process" if with_flow else "alone"
    end = f"{run['state_name']} {(run['state']['message'] or '')[:60]}".rstrip()
    return row(root, before, stage, seconds, f"{what}; first run: {end}")


def kill_tool(moment: float, root: Path) -> Figures:
    """Kill one of the processes that a tool runs in; the run must go on."""
    started = time.monotonic()
    with annotate(root, home=root.parent / "home") as run:
        wait_for_tools(run)
        time.sleep(moment)
        victims = tool_processes(run.pid)
        if not victims:
            raise EndedBeforeError(moment * 0.9)
        victims[0].kill()
        before, stage = shards(root), stage_of(root)
        finish(run)
    return row(root, before, stage, time.monotonic() - started, f"1 of {len(victims)} killed")


def row(root: Path, before: Shards, stage: str, seconds: float, note: str) -> Figures:
    """The figures of one kill."""
    after = shards(root)
    for ref in stages(root):
        for shard in ref.shards:
            read_shard(shard, RECORD_TYPES[ref.stage])  # refuses half a shard
    return {
        "stage": stage,
        "shards done": len(before),
        "of those again": sum(after.get(path) != identity for path, identity in before.items()),
        "in all": len(after),
        "seconds": round(seconds, 1),
        "besides": note,
    }


@contextlib.contextmanager
def annotate(root: Path, home: Path | None = None) -> Iterator[subprocess.Popen[str]]:
    """`toolformer annotate`, by default with a shared folder of its own; it logs to ROOT.log."""
    command = [sys.executable, "-c", "from flows.cli.main import main; main()", "annotate"]
    command += ["--config", str(root.parents[1] / "settings.yaml"), "--out", str(root)]
    environment = os.environ | {"TOOLFORMER_HOME": str(home or root.with_name(f"{root.name}.home"))}
    with (
        root.with_suffix(".log").open("a") as log,
        subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=log, text=True
        ) as process,
    ):
        process.started = time.monotonic()
        process.log = Path(log.name)
        try:
            yield process
        finally:
            process.kill()


def finish(run: subprocess.Popen[str]) -> float:
    """Wait for the end, which must be a good one; seconds since the start."""
    assert run.wait() == 0, run.log.read_text()
    return round(time.monotonic() - run.started, 1)


@contextlib.contextmanager
def working(service: Service) -> Iterator[subprocess.Popen[bytes]]:
    """A worker of the pool that is ready."""
    log = service.folder / "worker.log"
    size = log.stat().st_size if log.exists() else 0
    with service.started("worker", "prefect", "worker", "start", "--pool", "toolformer") as worker:
        wait_for(lambda: "started!" in log.read_text()[size:], 120, "the worker starts")
        yield worker


def start_night(service: Service, root: Path) -> str:
    """Have the deployment run once; the id of the flow run."""
    [found] = service.post("deployments/filter", deployments={"name": {"any_": [DEPLOYMENT]}})
    place = {"out": str(root)}
    settings = {"config_file": str(root.parents[1] / "settings.yaml")}
    answer = httpx.post(
        f"{service.api}/deployments/{found['id']}/create_flow_run",
        json={
            "parameters": {"method": settings, "place": place},
            "state": {"type": "SCHEDULED"},
        },
        timeout=180,
    )
    answer.raise_for_status()
    return str(answer.json()["id"])


def finish_night(service: Service, run_id: str, limit: float = 600) -> float:
    """Wait for the end of a flow run, which must be a good one; seconds since this was called.

    Raises: AssertionError if it does not end so within the limit, seconds.
    """
    started = time.monotonic()

    def end() -> Figures | None:
        [run] = service.post("flow_runs/filter", flow_runs={"id": {"any_": [run_id]}})
        return run if run["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None

    run = wait_for(end, limit, "the flow run ends")
    assert run["state_type"] == "COMPLETED", run["state"]
    return round(time.monotonic() - started, 1)


def final_states(service: Service) -> dict[str, int]:
    """Runs of the deployment by state, once the server has had the time to find the dead ones."""

    def states() -> Counter[str]:
        return Counter(run["state_name"] for run in service.post("flow_runs/filter"))

    with contextlib.suppress(AssertionError):
        wait_for(lambda: "Running" not in states(), 3 * SILENT_SECONDS, "the dead are marked")
    return dict(states())


def tool_processes(pid: int) -> list[psutil.Process]:
    """The processes of a run that a tool runs in (pebble's)."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if any("spawn_main" in part for part in process.cmdline()):
                found.append(process)
    return found


def wait_for_tools(run: subprocess.Popen[str]) -> None:
    """Until the run has a process for a tool."""
    while not tool_processes(run.pid):
        assert run.poll() is None, run.log.read_text()
        time.sleep(0.1)


def is_running(process: psutil.Process) -> bool:
    """Whether it is there and no zombie."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def shards(root: Path) -> Shards:
    """Inode and modification time of every shard: one that was computed again differs."""
    paths = [path for stage in STAGES for path in root.glob(f"{stage}/*/*/part-*.parquet")]
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def stage_of(root: Path) -> str:
    """The last stage that has left anything."""
    for name, file in (("report", "report.html"), ("index", "calls.duckdb")):
        if (root / file).exists():
            return name
    return next((stage for stage in STAGES[::-1] if (root / stage).exists()), "start")


def stages(root: Path) -> list[StageRef]:
    """The stages of the finished run."""
    from tasks.output.record import read_run

    return [read_manifest(manifest) for manifest in read_run(root).manifests]


def augmented_bytes(root: Path) -> list[bytes]:
    """C* as it lies on the disk."""
    return [
        Path(shard.path).read_bytes()
        for ref in stages(root)
        if ref.stage == "augment"
        for shard in ref.shards
    ]
