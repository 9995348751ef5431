"""Scheduled nights on a real server with a real worker and a real, tiny model.

Nothing is started by hand: the schedule of the deployment fires every minute.
"""

import contextlib
import datetime
import http.server
import json
import signal
import threading

import psutil
import pytest
import yaml

from tests.end_to_end.conftest import NUM_DOCUMENTS, corpus_rows, settings_of
from tests.support.prefect_service import ROOT, serving, wait_for
from toolformer_core.shards import read_manifest

pytestmark = [pytest.mark.services, pytest.mark.timeout(3600)]

NIGHTLY = "nightly-annotation"
PER_TOOL_STAGES = ("sample", "execute", "score", "filter")
NUM_SHARDS = 4


@pytest.fixture(scope="module")
def told():
    """Address of a webhook, and what it has been told."""
    messages = []

    class Webhook(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            messages.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments):
            """Quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Webhook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/", messages
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def service(tmp_path_factory, annotating_llama_folder, told):
    """A server with the project's deployments; the nightly one is due very often, and paused."""
    folder = tmp_path_factory.mktemp("service")
    write_texts(folder, "one", corpus_rows())
    content = settings_of("texts/*.jsonl", annotating_llama_folder)
    content["tools"]["wiki_search"]["passages"] = [str(folder / "texts/one.jsonl")]
    (folder / "settings.yaml").write_text(yaml.safe_dump(content))
    with serving(folder) as server:
        server.run("deployments", "--silent-seconds", "75", TOOLFORMER_WEBHOOK=told[0])
        plan = folder / "prefect.yaml"
        plan.write_text(yaml.safe_dump(due_often(folder)))
        server.run("prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(plan))
        server.let_schedule_fire(NIGHTLY, fires=False)
        yield server


def due_often(folder):
    """deployments/prefect.yaml with the nightly one alone, on a schedule of a minute."""
    plan = yaml.safe_load((ROOT / "deployments/prefect.yaml").read_text())
    [nightly] = [d for d in plan["deployments"] if d["name"] == NIGHTLY]
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=15)
    nightly["schedules"] = [{"interval": 60, "anchor_date": soon.isoformat(), "slug": "soon"}]
    nightly["parameters"] = {
        "method": {"config_file": "settings.yaml"},
        "place": {"out": "nights"},
    }
    nightly["work_pool"]["job_variables"]["env"]["TOOLFORMER_HOME"] = "home"
    return {**plan, "deployments": [nightly]}


def write_texts(folder, name, rows):
    (folder / "texts").mkdir(exist_ok=True)
    (folder / f"texts/{name}.jsonl").write_text("".join(f"{row}\n" for row in rows))


def later_rows(count):
    for n in range(count):
        text = f"Later {n}: He sold {n + 4} plums and {n + 2} figs, {2 * n + 6} pieces in all."
        yield json.dumps({"text": f"{text} It is Friday.", "date": "2021-05-07"})


@contextlib.contextmanager
def working(service):
    """A worker of the pool."""
    with service.started("worker", "prefect", "worker", "start", "--pool", "toolformer") as worker:
        yield worker


def next_night(service):
    """The one run that the schedule starts from now on; then it is paused, and nothing runs."""
    num_before = len(service.flow_runs(NIGHTLY))
    service.let_schedule_fire(NIGHTLY, fires=True)
    wait_for(lambda: service.flow_runs(NIGHTLY)[num_before:], 300, "a night starts")
    service.let_schedule_fire(NIGHTLY, fires=False)
    wait_for(lambda: service.is_idle(NIGHTLY), 900, "the night ends")
    [night] = service.flow_runs(NIGHTLY)[num_before:]
    assert night["state_type"] == "COMPLETED", night["state"]["message"]
    return night


def stages(root):
    content = json.loads((root / "run.json").read_text())
    refs = (read_manifest(root / manifest) for manifest in content["manifests"])
    return {(ref.stage, ref.tool): ref for ref in refs}


def shard_files(root):
    """Inode and modification time of every shard: a rewritten one differs."""
    paths = [path for path in root.glob("*/**/*.parquet") if "results" not in path.parts]
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def test_schedule_fires_and_a_second_night_computes_the_new_documents_alone(service):
    root = service.folder / "nights"
    with working(service):
        first = next_night(service)
        assert first["auto_scheduled"]
        assert first["created_by"]["type"] == "SCHEDULE"
        assert {ref.num_cached for ref in stages(root).values()} == {0}
        before, files = stages(root), shard_files(root)
        assert sum(shard.num_rows for shard in before["corpus", "all"].shards) == NUM_DOCUMENTS

        write_texts(service.folder, "two", later_rows(6))
        next_night(service)
        after = stages(root)
        for stage, tool in before:
            if stage in ("corpus", *PER_TOOL_STAGES):
                ref = after[stage, tool]
                assert ref.shards[:NUM_SHARDS] == before[stage, tool].shards
                assert (len(ref.shards), ref.num_cached) == (NUM_SHARDS + 2, NUM_SHARDS)
        assert sum(shard.num_rows for shard in after["corpus", "all"].shards[NUM_SHARDS:]) == 6
        now = shard_files(root)
        assert {name: now[name] for name in files} == files

        next_night(service)
        for (stage, tool), ref in stages(root).items():
            if stage != "quarantine":
                assert (stage, tool, ref.num_cached) == (stage, tool, NUM_SHARDS + 2)


def test_registration_again_changes_what_differs(service):
    service.run("deployments", "--limit", "gpu=2", "--limit", "tool:Oracle=3")
    limits = service.post("v2/concurrency_limits/filter")
    found = {limit["name"]: limit["limit"] for limit in limits}
    assert (found["tag:gpu"], found["tag:tool:Oracle"], found["tag:tool:QA"]) == (2, 3, 1)
    automations = service.post("automations/filter")
    assert sorted(a["name"] for a in automations) == ["toolformer: notify", "toolformer: reaper"]
    [reaper] = [a for a in automations if a["name"] == "toolformer: reaper"]
    assert reaper["trigger"]["within"] == 600.0
    service.run("deployments", "--silent-seconds", "75")


def test_night_whose_process_and_worker_were_killed_is_marked_crashed_told_and_made_up_for(
    service, told
):
    write_texts(service.folder, "two", later_rows(6))  # there already, unless it runs alone
    write_texts(service.folder, "three", later_rows(9))
    num_before = len(service.flow_runs(NIGHTLY))
    service.let_schedule_fire(NIGHTLY, fires=True)
    with working(service) as worker:
        [run, *_] = wait_for(
            lambda: [
                run
                for run in service.flow_runs(NIGHTLY)[num_before:]
                if run["state_type"] == "RUNNING" and list_flow_processes(worker)
            ],
            600,
            "a night runs",
        )
        killed = [*list_flow_processes(worker), psutil.Process(worker.pid)]
        for process in killed[::-1]:
            process.send_signal(signal.SIGKILL)
        psutil.wait_procs(killed, 20)
    service.let_schedule_fire(NIGHTLY, fires=False)
    state = wait_for(lambda: end_of(service, run["id"]), 900, "the dead run is marked")
    assert state["type"] == "CRASHED"
    assert "No heartbeat for 75 s" in state["message"]
    # Prefect's scheduler sends no event of the state Scheduled. It is waited for, and with it all
    # later events of the run, for a quarter of an hour.
    [message] = wait_for(
        lambda: [m for m in told[1] if m["flow_run_id"] == run["id"]], 1200, "the webhook is told"
    )
    assert "Crashed" in message["text"]
    with working(service):
        next_night(service)
    documents = stages(service.folder / "nights")["corpus", "all"]
    assert sum(shard.num_rows for shard in documents.shards) == NUM_DOCUMENTS + 6 + 3


def end_of(service, run_id):
    """The state of a run that is no longer running."""
    [run] = service.post("flow_runs/filter", flow_runs={"id": {"any_": [run_id]}})
    return None if run["state_type"] == "RUNNING" else run["state"]


def list_flow_processes(worker):
    """The processes below the worker."""
    return psutil.Process(worker.pid).children(recursive=True)
