"""The journal of what is tracked: order, cut lines, what is open, whose process is alive."""

import os
import subprocess
import sys

import pytest

from tasks.tracking.journal import (
    Journal,
    closing,
    journals,
    measuring,
    opening,
    registering,
    uploading,
)
from toolformer_core.models import ModelRef


@pytest.fixture
def journal(tmp_path):
    return Journal.of(tmp_path, "session/stage")


def told(journal, offset=0):
    return [(action["do"], action["run"]) for action, _ in journal.after(offset)]


def test_journal_gives_back_what_lies_behind_an_offset(journal):
    journal.append(opening("session", "a run"), measuring("session", {"loss": float("nan")}))
    journal.append(closing("session"))
    offset = journal.after()[0][1]
    assert told(journal) == [("open", "session"), ("measure", "session"), ("close", "session")]
    assert told(journal, offset) == [("measure", "session"), ("close", "session")]
    assert told(journal, journal.after()[-1][1]) == []
    assert [found.session for found in journals(journal.root)] == ["session"]


def test_journal_line_that_was_cut_is_no_action_and_spoils_none(journal):
    journal.append(opening("session", "a run"), measuring("session", {"loss": 1.0}))
    file = journal.folder / "actions.jsonl"
    file.write_bytes(file.read_bytes()[:-9])
    journal.append(closing("session"))
    assert told(journal) == [("open", "session"), ("close", "session")]


def test_journal_closes_what_is_open_children_first(journal):
    journal.append(opening("session", "a run"), opening("session/one", "one"))
    journal.append(closing("session/one"), opening("session/two", "two"))
    assert journal.close_runs("KILLED")
    last = [action for action, _ in journal.after()][-2:]
    assert [(action["run"], action["status"]) for action in last] == [
        ("session/two", "KILLED"),
        ("session", "KILLED"),
    ]
    assert not journal.close_runs("KILLED")


def test_journal_run_that_was_killed_ended_when_it_last_wrote(journal):
    journal.append(opening("session", "a run"))
    os.utime(journal.folder / "actions.jsonl", (1000, 1000))
    journal.close_runs("KILLED")
    assert journal.after()[-1][0]["time"] == 1_000_000


def test_journal_of_another_store_begins_anew(journal):
    journal.begin("sqlite:///one.db")
    state = journal.state()
    state.offset, state.ids = 7, {"session": "abc"}
    journal.save(state)
    assert journal.state("sqlite:///one.db").offset == 7
    assert journal.state("sqlite:///two.db").offset == 0
    journal.leave(is_recorded=True)
    assert not journal.folder.exists()


def test_journal_is_alive_while_its_process_is(journal, tmp_path):
    code = (
        "import sys, pathlib; from tasks.tracking.journal import Journal, opening;"
        "j = Journal(pathlib.Path(sys.argv[1]), 'session'); j.begin('none');"
        "j.append(opening('session', 'a run')); print('begun', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"begun\n"
        assert journal.is_alive()
        process.kill()
    assert not journal.is_alive()
    assert journal.open_runs() == ["session"]


def test_journal_names_a_model_of_the_folder_relative_to_it(journal, tmp_path):
    model = ModelRef(path=str(tmp_path / "finetune/model"), digest="d", dtype="float32")
    assert registering("session", model, tmp_path)["model"]["path"] == "finetune/model"
    assert registering("session", model, tmp_path / "other")["model"]["path"] == model.path
    assert uploading("session") == {"do": "upload", "run": "session"}
