"""`toolformer sync`: MLflow gets what it missed; index and report are made anew where they must."""

import json
import os
import shutil

import pytest

from tasks.index.query import funnel, query
from tasks.report.artifacts import index_run
from tasks.tracking import store as track_store
from tasks.tracking.journal import Journal, measuring, opening
from tests.support.tracked_run import held, tell
from tests.support.tuned_folder import tuned_folder
from toolformer_core.config.base import ModelConfig
from toolformer_core.config.runtime import Runtime

AWAY = "http://127.0.0.1:9"  # the port of "discard": nobody listens


@pytest.fixture(autouse=True)
def _never_asked(monkeypatch):
    monkeypatch.setattr(track_store, "_ask_again", {})


@pytest.fixture
def store(finished, tmp_path):
    """A store of the test's own."""
    shutil.copy(finished[0].runtime.home / "mlflow.db", tmp_path)
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def copied(finished, tmp_path):
    """An output folder that may be spoilt."""
    root = tmp_path / "run"
    shutil.copytree(finished[0].root, root, symlinks=True)
    return root


def test_run_without_mlflow_is_recorded_later_just_as_with_it(
    finished, calling_llama_folder, store, tmp_path, invoke
):
    from toolformer_core.transformers_lm.loading import resolve_model

    project, manifests = finished
    folder = tuned_folder(calling_llama_folder, tmp_path / "tuned")
    model = resolve_model(ModelConfig(name_or_path=str(folder), dtype="float32"), tmp_path, "cpu")
    here, away = (
        Runtime(root=tmp_path / name, home=project.runtime.home, tracking=uri)
        for name, uri in (("here", store), ("away", AWAY))
    )
    expected = held(store, tell(project, manifests, model, here, list))
    assert not any((here.root / "tracking").glob("*/"))
    assert len(expected) == 3
    assert expected[""]["models"]
    assert "report.html" in expected[""]["artifacts"]
    assert any(name.endswith(".png") for name in expected[""]["artifacts"])

    told = tell(project, manifests, model, away, list)
    code, output, errors = invoke("sync", "--out", away.root)
    assert (code, output) == (1, "")
    assert errors.splitlines()[-1].startswith(f"toolformer: MLflow at {AWAY} is not reachable")
    assert "nothing is lost" in errors
    code, output, errors = invoke("sync", "--out", away.root, "--tracking", store, "--json")
    assert code == 0, errors
    [run] = json.loads(output)["mlflow"]
    assert (run["waiting"], run["refused"], run["was_killed"]) == (0, [], False)
    assert held(store, told) == expected
    assert not Journal(away.root, told).folder.exists()


def test_sync_of_all_that_is_recorded_does_nothing(finished, invoke):
    invoke("sync", "--out", finished[0].root)  # what other tests have written since the index
    code, output, errors = invoke("sync", "--out", finished[0].root)
    assert (code, output, errors) == (0, "nothing to do: all is recorded\n", "")


def test_sync_closes_the_runs_of_a_process_that_has_died_and_no_others(tmp_path, store, invoke):
    dead, alive = Journal(tmp_path, "dead"), Journal(tmp_path, "alive")
    for journal in (dead, alive):
        journal.begin(store)
        run = journal.session
        journal.append(opening(run, "a run"), opening(f"{run}/sample", "sample"))
        journal.append(measuring(run, {"loss": 1.0}, step=3))
    dead.leave(is_recorded=False)  # as the system does when a process ends
    code, output, errors = invoke("sync", "--out", tmp_path)
    assert code == 0, errors
    assert output.count("closed as killed, its process has died") == 1
    states = [
        {name: content["status"] for name, content in held(store, run).items()}
        for run in ("dead", "alive")
    ]
    assert states == [{"": "KILLED", "/sample": "KILLED"}, {"": "RUNNING", "/sample": "RUNNING"}]
    assert not dead.folder.exists()
    alive.leave(is_recorded=True)
    again = invoke("sync", "--out", tmp_path)  # a folder that was but tracked, as by a sweep
    assert again == (0, "nothing to do: all is recorded\n", "")
    (tmp_path / "run.json").write_text("{")
    late = Journal(tmp_path, "late")
    late.begin(store)
    late.append(opening("late", "a run"))
    late.leave(is_recorded=False)
    code, output, errors = invoke("sync", "--out", tmp_path)
    assert code == 2
    assert "2 records; closed as killed" in output
    assert "run.json is broken" in errors


def test_transfer_again_of_what_was_taken_changes_nothing(tmp_path, store):
    """A process may die between telling the store and noting that it has."""
    journal = Journal(tmp_path, "again")
    journal.append(opening("again", "a run", params={"k": 3}), measuring("again", {"loss": 1.0}))
    assert track_store.transfer(journal, store).taken == 2
    first = held(store, "again")
    journal.save(type(journal.state())(store))
    assert track_store.transfer(journal, store).taken == 2
    assert held(store, "again") == first
    assert first[""]["metrics"] == {"loss": [(0, 1.0)]}


def test_transfer_what_a_store_refuses_does_not_hold_up_the_rest(tmp_path, store):
    journal = Journal(tmp_path, "run")
    journal.append(opening("run", "a run"), measuring("run", {"loss": 2.0}))
    journal.append(measuring("run", {"bad:*name": 1.0}))  # told along with the one before it
    journal.append(measuring("gone", {"loss": 1.0}), measuring("run", {"good": 2.0}))
    done = track_store.transfer(journal, store)
    assert (done.taken, done.waiting) == (3, 0)
    assert [line.partition(":")[0].partition(",")[0] for line in done.refused] == [
        "to measure run",
        "to measure gone",
    ]
    assert held(store, "run")[""]["metrics"] == {"loss": [(0, 2.0)], "good": [(0, 2.0)]}


@pytest.mark.parametrize("damage", ["missing", "damaged", "older"])
def test_sync_makes_index_and_report_anew(copied, invoke, damage):
    index, page = copied / "calls.duckdb", copied / "report.html"
    rows = query(index, "SELECT * FROM candidates ORDER BY ALL")
    if damage == "missing":
        index.unlink()
        page.unlink()
    elif damage == "damaged":
        index.write_bytes(b"no database")
        page.write_text("<html>half a")
    else:
        os.utime(index, (1, 1))
    record = json.loads((copied / "run.json").read_text())
    links = record.pop("links")
    if damage == "older":
        (copied / "run.json").write_text(json.dumps(record))
    code, output, errors = invoke("sync", "--out", copied)
    assert code == 0, errors
    assert [line.partition(":")[0] for line in output.splitlines()] == ["index", "report"]
    assert query(index, "SELECT * FROM candidates ORDER BY ALL") == rows
    assert page.read_text().rstrip().endswith("</html>")
    assert "Evaluation" in page.read_text()
    assert links["git commit"] in page.read_text()
    assert (links["MLflow run"] in page.read_text()) == (damage != "older")
    assert ("made anew by toolformer sync" in page.read_text()) == (damage == "older")
    assert str(copied) in page.read_text()


def test_sync_of_a_folder_without_a_run_is_one_line(tmp_path, invoke):
    code, output, errors = invoke("sync", "--out", tmp_path)
    assert (code, output) == (2, "")
    assert errors.count("\n") == 1
    assert "holds no run" in errors


def test_index_whose_file_cannot_be_replaced_lies_beside_it_until_it_can(finished, copied, invoke):
    """A folder in its place stands for a file that another system keeps."""
    project, manifests = finished
    index = copied / "calls.duckdb"
    rows = query(index, "SELECT * FROM candidates ORDER BY ALL")
    index.unlink()
    index.mkdir()
    moved = [copied / path.relative_to(project.root) for path in manifests]
    beside = index_run.fn(moved, project.config, copied)
    assert beside.name == "new-calls.duckdb"
    assert query(beside, "SELECT * FROM candidates ORDER BY ALL") == rows
    assert json.loads(invoke("funnel", "--out", copied, "--json")[1]) == funnel(beside)
    beside.write_bytes(b"no database")
    code, output, errors = invoke("sync", "--out", copied)
    assert code == 0, errors
    assert "index: made anew, it was damaged" in output
    assert query(beside, "SELECT * FROM candidates ORDER BY ALL") == rows
    index.rmdir()
    assert index_run.fn(moved, project.config, copied) == index
    assert not beside.exists()
