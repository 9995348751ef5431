"""MLflow's store: takes the actions of a journal (journal.py), in order, each as often as it likes.

Tracking is best effort. What a store that is away has not taken stays in the journal, and goes
first with the next action, at the end of the run, at the start of the next run in the folder, or
with `toolformer sync`. What it refuses is dropped with a warning.
"""

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME
from sqlalchemy.exc import SQLAlchemyError

from tasks.tracking.journal import KILLED, RUN_TAG, Action, Journal, State, journals
from tasks.tracking.registry import registered
from toolformer_core.config.runtime import Runtime
from toolformer_core.errors import TransientStorageError
from toolformer_core.models import ModelRef

EXPERIMENT = "toolformer"
AWAY = (MlflowException, SQLAlchemyError, ConnectionError)
"""What a store that is away raises. One in a database raises the database's own errors until it is
open: the file is damaged, locked, or not to be opened."""

_MAX_PARAM_CHARS = 500
_MAX_BATCH = 1000  # metrics that MLflow takes at a time
_MAX_REASON_CHARS = 200
_PAUSE = 10
"""A store that is away is asked again after so many times what asking took: it delays a run by a
tenth at most."""
_LEAST_PAUSE_SECONDS = 20.0

_REFUSED = (
    "BAD_REQUEST",
    "ENDPOINT_NOT_FOUND",
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "NOT_IMPLEMENTED",
    "PERMISSION_DENIED",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
)
"""Error codes of actions that would fail again."""
_DAMAGED = "DatabaseError"
"""Stands in the text of a BAD_REQUEST where not the action but the store's database is bad."""
_Entry = tuple[Action, int]  # with its end in the journal

logger = logging.getLogger(__name__)

_ask_again: dict[str, float] = {}  # store to the time from which on it is asked again


@dataclass(slots=True)
class Transfer:
    """What a store took of a journal, and refused; why it did not take the rest."""

    journal: Journal
    store: str
    ids: Mapping[str, str] = field(default_factory=dict)
    taken: int = 0
    refused: list[str] = field(default_factory=list)
    waiting: int = 0
    reason: str = ""
    was_killed: bool = False

    def summary(self) -> dict[str, Any]:  # Any: figures
        """What came of it, as JSON; the run as MLflow names it, if it does."""
        session = self.journal.session
        return {
            "run": self.ids.get(session, session),
            "store": self.store,
            "recorded": self.taken,
            "waiting": self.waiting,
            "refused": self.refused,
            "was_killed": self.was_killed,
        }


def tracking_uri(runtime: Runtime) -> str:
    """The MLflow store of a run."""
    return runtime.tracking or f"sqlite:///{runtime.home.absolute() / 'mlflow.db'}"


def record(runtime: Runtime, *actions: Action) -> None:
    """Note actions of one run, and tell them to its store unless that has just been away."""
    store, journal = tracking_uri(runtime), Journal.of(runtime.root, actions[0]["run"])
    journal.append(*actions)
    if time.monotonic() < _ask_again.get(store, 0.0):
        return
    was_away = store in _ask_again
    done = transfer(journal, store)
    if done.waiting and not was_away:
        logger.warning(
            "MLflow at %s is not reachable (%s); what it shall hold waits in %s",
            *(store, done.reason, journal.folder),
        )


def conclude(runtime: Runtime, run: str, *actions: Action) -> str | None:
    """Note the last actions of a run of ours and tell them all; the id of the run in MLflow."""
    store, journal = tracking_uri(runtime), Journal.of(runtime.root, run)
    journal.append(*actions)
    done = transfer(journal, store)
    journal.leave(is_recorded=not done.waiting)
    if done.waiting:
        logger.warning(
            "MLflow at %s is not reachable (%s): %d records of this run wait; toolformer sync "
            "--out %s records them",
            *(store, done.reason, done.waiting, runtime.root),
        )
    return done.ids.get(run)


def require_all(told: Sequence[Transfer]) -> None:
    """Nothing, if all was taken.

    Raises: TransientStorageError if not.
    """
    waiting = [one for one in told if one.waiting]
    if waiting:
        one, count = waiting[0], sum(each.waiting for each in waiting)
        raise TransientStorageError(
            f"MLflow at {one.store} is not reachable ({one.reason}): {count} records wait in "
            f"{one.journal.folder.parent}, nothing is lost; start it and run toolformer sync "
            f"--out {one.journal.root}"
        )


def settle(root: Path, store: str | None = None) -> Iterator[Transfer]:
    """Tell what waits below a folder, to that store or to the one it was meant for.

    The runs of a flow run whose process has died are closed as killed.
    """
    away = {"": "its state.json does not say which: pass --tracking"}
    for journal in journals(root):
        is_alive = journal.is_alive()
        was_killed = not is_alive and journal.close_runs(KILLED)
        wanted = store or journal.state().store
        if wanted in away:  # asking costs seconds
            waiting = len(journal.after(journal.state(wanted).offset))
            done = Transfer(journal, wanted, waiting=waiting, reason=away[wanted])
        else:
            done = transfer(journal, wanted)
        if done.waiting:
            away[wanted] = done.reason
        elif not is_alive:
            journal.leave(is_recorded=True)
        done.was_killed = was_killed
        yield done


def transfer(journal: Journal, store: str) -> Transfer:
    """Bring a store up to date with a journal."""
    done = Transfer(journal, store)
    started = time.monotonic()
    with journal.locked():
        state = journal.state(store)
        done.ids = state.ids
        pending = journal.after(state.offset)
        if not pending:
            return done
        try:
            client = MlflowClient(store)
            for entries in _neighbours(pending):
                _tell(entries, client, state, done)
            _ask_again.pop(store, None)
        except (*AWAY, OSError) as error:
            done.reason = _reason(error)
            done.waiting = sum(end > state.offset for _, end in pending)
            spent = time.monotonic() - started
            _ask_again[store] = time.monotonic() + max(_LEAST_PAUSE_SECONDS, _PAUSE * spent)
        journal.save(state)
    for line in done.refused:
        logger.warning("MLflow at %s refused %s", store, line)
    return done


def _neighbours(pending: Iterable[_Entry]) -> Iterator[list[_Entry]]:
    """The actions one by one, but neighbouring measurements of a run together."""

    def alike(entry: _Entry) -> tuple[object, ...]:
        action, end = entry
        return ("measure", action["run"]) if action["do"] == "measure" else (end,)

    for _, entries in itertools.groupby(pending, alike):
        yield list(entries)


def _tell(entries: Sequence[_Entry], client: MlflowClient, state: State, done: Transfer) -> None:
    """Carry out some actions as one; if the store refuses that, one by one."""
    action, end = entries[-1]
    if action["do"] == "measure":
        action = {**action, "points": [p for one, _ in entries for p in one["points"]]}
    refused = _take(action, client, done.journal, state)
    if refused and len(entries) > 1:
        for entry in entries:
            _tell([entry], client, state, done)
        return
    if refused:
        done.refused.append(refused)
    else:
        done.taken += len(entries)
    state.offset = end


def _take(action: Action, client: MlflowClient, journal: Journal, state: State) -> str:
    """Carry out one action; what the store refuses of it, and why, if it does.

    Raises: one of AWAY or OSError if the store is away.
    """
    what, run = action["do"], action["run"]
    if what == "open":
        state.ids[run] = _open(client, action, state)
    elif run not in state.ids:
        return f"to {what} {run}, which was never opened"
    else:
        try:
            _DO[what](client, state.ids[run], action, journal)
        except (MlflowException, FileNotFoundError) as error:
            if isinstance(error, MlflowException) and not _is_refusal(error):
                raise
            return f"to {what} {run}: {_reason(error)}"
    return ""


def _is_refusal(error: MlflowException) -> bool:
    """Whether the action is at fault, and would fail again."""
    return error.error_code in _REFUSED and _DAMAGED not in str(error)


def _open(client: MlflowClient, action: Action, state: State) -> str:
    """The id of a run, which is made unless it is there.

    A store that does not open a run is as good as away: all else would be lost on it.
    """
    run, experiment = action["run"], _experiment_id(client, state.store)
    found = client.search_runs([experiment], f"tags.{RUN_TAG} = '{run}'", max_results=1)
    if found:
        run_id = str(found[0].info.run_id)
        client.update_run(run_id, status="RUNNING")
    else:
        tags = {**action["tags"], RUN_TAG: run, MLFLOW_RUN_NAME: action["name"]}
        parent = run.rpartition("/")[0]
        if parent in state.ids:
            tags[MLFLOW_PARENT_RUN_ID] = state.ids[parent]
        made = client.create_run(experiment, action["time"], tags, action["name"])
        run_id = str(made.info.run_id)
    params = action["params"].items()
    client.log_batch(run_id, params=[Param(key, v[:_MAX_PARAM_CHARS]) for key, v in params])
    return run_id


def _experiment_id(client: MlflowClient, store: str) -> str:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is not None:
        return str(experiment.experiment_id)
    # Beside the file: MLflow would take the working directory.
    _, is_file, path = store.partition("sqlite:///")
    artifacts = (Path(path).absolute().parent / "mlartifacts").as_uri() if is_file else None
    return str(client.create_experiment(EXPERIMENT, artifacts))


def _measure(client: MlflowClient, run_id: str, action: Action, journal: Journal) -> None:
    points = [Metric(*point) for point in action["points"]]
    for first in range(0, len(points), _MAX_BATCH):
        client.log_batch(run_id, metrics=points[first : first + _MAX_BATCH])


def _upload(client: MlflowClient, run_id: str, action: Action, journal: Journal) -> None:
    client.log_artifacts(run_id, str(journal.files))


def _register(client: MlflowClient, run_id: str, action: Action, journal: Journal) -> None:
    model = action["model"]
    registered(client, run_id, ModelRef(**model | {"path": str(journal.root / model["path"])}))


def _close(client: MlflowClient, run_id: str, action: Action, journal: Journal) -> None:
    client.set_terminated(run_id, action["status"], action["time"])


_DO: Mapping[str, Callable[[MlflowClient, str, Action, Journal], None]] = {
    "measure": _measure,
    "upload": _upload,
    "register": _register,
    "close": _close,
}


def _reason(error: Exception) -> str:
    """One line of bounded length."""
    return " ".join(str(error).split())[:_MAX_REASON_CHARS]
