"""What a run has to tell MLflow, kept beside its results until MLflow holds it.

ROOT/tracking/SESSION is what one flow run tells, in the order in which it came about:
`actions.jsonl`, one action per line; `files/`, what is uploaded; `state.json`, how far which store
has taken it, and the ids that it chose for the runs. Once all is taken the folder is deleted.

A run is named SESSION, or SESSION/CHILD. A line that a crash or a full disk has cut is no action.
"""

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tasks.output.json_file import write_whole
from toolformer_core.models import ModelRef

Action = Mapping[str, Any]  # Any: JSON

TRACKING = "tracking"
KILLED = "KILLED"
RUN_TAG = "toolformer_run"
"""The tag of a run in MLflow that bears our name of it, by which it is found again."""

_held: dict[Path, FileLock] = {}
"""Locks of the sessions of this process. The system frees them however the process ends."""


@dataclass(slots=True)
class State:
    """How far a store has taken a journal, in bytes, and what it calls the runs."""

    store: str
    offset: int = 0
    ids: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Journal:
    """The actions of one flow run."""

    root: Path
    session: str

    @classmethod
    def of(cls, root: Path, run: str) -> "Journal":
        """The journal in which a run or a child of it is."""
        return cls(root, run.partition("/")[0])

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.root / TRACKING / self.session

    @property
    def files(self) -> Path:
        """What is uploaded with the run."""
        return self.folder / "files"

    @property
    def _actions(self) -> Path:
        return self.folder / "actions.jsonl"

    @property
    def _state(self) -> Path:
        return self.folder / "state.json"

    def begin(self, store: str) -> None:
        """Open it for this process, and for a store, which it is meant for from now on."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.folder not in _held:
            lock = FileLock(self.folder / ".owner", thread_local=False)
            with suppress(Timeout):
                lock.acquire(blocking=False)
                _held[self.folder] = lock
        self.save(self.state(store))

    def append(self, *actions: Action) -> None:
        """Add actions at the end."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = "".join(f"{json.dumps(action)}\n" for action in actions)
        with self._actions.open("a+b") as stream:
            if stream.tell():
                stream.seek(-1, 2)
                lines = lines if stream.read() == b"\n" else f"\n{lines}"
            stream.write(lines.encode())

    def after(self, offset: int = 0) -> list[tuple[Action, int]]:
        """The actions behind an offset, each with the offset of its end."""
        found: list[tuple[Action, int]] = []
        with suppress(FileNotFoundError), self._actions.open("rb") as stream:
            stream.seek(offset)
            for line in stream:
                offset += len(line)
                with suppress(ValueError):
                    found.append((json.loads(line), offset))
        return found

    def open_runs(self) -> list[str]:
        """The runs that have been opened and not closed; children first."""
        is_open: dict[str, bool] = {}
        for action, _ in self.after():
            if action["do"] in ("open", "close"):
                is_open[action["run"]] = action["do"] == "open"
        return [run for run in reversed(is_open) if is_open[run]]

    def close_runs(self, status: str) -> bool:
        """Close what is open; whether there was any.

        What was killed ended when its process last wrote.
        """
        runs = self.open_runs()
        if runs:
            is_late = status == KILLED
            ended = int(self._actions.stat().st_mtime * 1000) if is_late else now()
            self.append(*({**closing(run, status), "time": ended} for run in runs))
        return bool(runs)

    def steps(self, run: str) -> set[tuple[str, int]]:
        """Key and step of every metric of a run."""
        told = (action for action, _ in self.after() if action["run"] == run)
        points = (
            point for action in told if action["do"] == "measure" for point in action["points"]
        )
        return {(key, step) for key, _, _, step in points}

    def state(self, store: str | None = None) -> State:
        """How far that store has come, or the one it was meant for; another one begins anew."""
        with suppress(FileNotFoundError, ValueError, TypeError):
            known = State(**json.loads(self._state.read_text(encoding="utf-8")))
            if store in (None, known.store):
                return known
        return State(store or "")

    def save(self, state: State) -> None:
        """Keep the state."""
        content = {"store": state.store, "offset": state.offset, "ids": state.ids}
        write_whole(self._state, json.dumps(content))

    def is_alive(self) -> bool:
        """Whether the process that writes it still runs."""
        lock = FileLock(self.folder / ".owner", thread_local=False)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return True
        lock.release()
        return False

    @contextmanager
    def locked(self) -> Iterator[None]:
        """While nobody else brings journals of this folder to a store."""
        with FileLock(self.root / TRACKING / ".lock", thread_local=False):
            yield

    def leave(self, *, is_recorded: bool) -> None:
        """End it for this process; one that is recorded is not needed any more."""
        lock = _held.pop(self.folder, None)
        if lock is not None:
            lock.release()
        if is_recorded:
            shutil.rmtree(self.folder, ignore_errors=True)


def journals(root: Path) -> list[Journal]:
    """The journals below an output folder."""
    return [Journal(root, path.parent.name) for path in root.glob(f"{TRACKING}/*/actions.jsonl")]


def now() -> int:
    """Milliseconds, as MLflow counts them."""
    return int(time.time() * 1000)


def opening(
    run: str,
    name: str,
    *,
    params: Mapping[str, Any] | None = None,  # Any: settings of every kind
    tags: Mapping[str, str] | None = None,
) -> Action:
    """A run; one named SESSION/CHILD lies within its parent. One that is there goes on."""
    return {
        "do": "open",
        "run": run,
        "name": name,
        "params": {key: str(value) for key, value in (params or {}).items()},
        "tags": dict(tags or {}),
        "time": now(),
    }


def measuring(run: str, figures: Mapping[str, float], step: int = 0) -> Action:
    """Metrics of a run, at a step."""
    time_ms = now()
    points = [[name, float(value), time_ms, step] for name, value in figures.items()]
    return {"do": "measure", "run": run, "points": points}


def registering(run: str, model: ModelRef, root: Path) -> Action:
    """The tuned model that came out of a run; below the output folder its path is relative."""
    path = Path(model.path)
    below = path.relative_to(root) if path.is_relative_to(root) else path
    return {"do": "register", "run": run, "model": {**asdict(model), "path": str(below)}}


def uploading(run: str) -> Action:
    """The journal's files, as artifacts of a run."""
    return {"do": "upload", "run": run}


def closing(run: str, status: str = "FINISHED") -> Action:
    """The end of a run."""
    return {"do": "close", "run": run, "status": status, "time": now()}
