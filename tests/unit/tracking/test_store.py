"""What a store of MLflow refuses, and what it is when it cannot be opened."""

import shutil
from contextlib import nullcontext

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import ErrorCode
from mlflow.store.db import utils

from tasks.tracking import register
from tasks.tracking import store as track_store
from tasks.tracking.journal import Journal, measuring, opening
from tasks.tracking.register import champion_model, crown_model, registration
from tasks.tracking.store import settle, transfer
from toolformer_core.config.runtime import Runtime
from toolformer_core.errors import TransientStorageError
from toolformer_core.evaluation.gate import GateDecision
from toolformer_core.models import ModelRef


@pytest.fixture
def damaged(tmp_path, monkeypatch):
    """A store in a file that is no database; MLflow would try for more than a minute."""
    monkeypatch.setattr(utils, "MAX_RETRY_COUNT", 0)
    monkeypatch.setattr(track_store, "_ask_again", {})
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 100)
    return f"sqlite:///{tmp_path}/mlflow.db"


def test_transfer_store_that_cannot_be_opened_is_away(tmp_path, damaged):
    journal = Journal(tmp_path, "run")
    journal.append(opening("run", "a run"), measuring("run", {"loss": 1.0}))
    done = transfer(journal, damaged)
    assert (done.taken, done.waiting) == (0, 2)
    assert "file is not a database" in done.reason


def test_registry_that_cannot_be_opened_is_away(tmp_path, damaged):
    runtime = Runtime(root=tmp_path / "run", home=tmp_path)
    with pytest.raises(TransientStorageError, match="is needed to compare"):
        champion_model.fn(runtime)
    (tmp_path / "toolformer.json").write_text('{"tools": {}, "decode": {}}')
    model = ModelRef(path=str(tmp_path), digest="d", dtype="float32")
    assert "does not answer" in registration(model, runtime)["mlflow_run"]


def test_verdict_that_cannot_be_recorded_is_not_promised_to_be_later(
    tmp_path, damaged, monkeypatch
):
    monkeypatch.setattr(register, "_needed_registry", lambda _: nullcontext())  # it goes after that
    runtime = Runtime(root=tmp_path / "run", home=tmp_path, tracking=damaged)
    Journal(runtime.root, "run").append(opening("run", "a run"))
    model = ModelRef(path=str(tmp_path), digest="d", dtype="float32")
    decision = GateDecision(passed=True, reason="it is better", figures={})
    with pytest.raises(TransientStorageError, match="verdict of the gate is not recorded"):
        crown_model.fn("run", model, decision, runtime)


@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [
        ("PERMISSION_DENIED", "not yours", True),
        ("BAD_REQUEST", "(sqlite3.IntegrityError) no such run", True),
        ("BAD_REQUEST", "(sqlite3.DatabaseError) disk image is malformed", False),
        ("TEMPORARILY_UNAVAILABLE", "later", False),
        ("INTERNAL_ERROR", "a fault", False),
    ],
)
def test_refusal_is_what_the_action_is_to_blame_for(code, text, expected):
    error = MlflowException(text, error_code=ErrorCode.Value(code))
    assert track_store._is_refusal(error) == expected


def test_settle_journal_that_goes_meanwhile_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        Journal(tmp_path, name).append(opening(name, "a run"))
    settling = settle(tmp_path)
    first = next(settling)
    assert (first.waiting, "pass --tracking" in first.reason) == (2, True)
    [other] = {"one", "two"} - {first.journal.session}
    shutil.rmtree(tmp_path / "tracking" / other)
    assert [(one.taken, one.waiting) for one in settling] == [(0, 0)]
    assert [path.name for path in tmp_path.iterdir()] == ["tracking"]
    assert not (tmp_path / "tracking" / other).exists()
