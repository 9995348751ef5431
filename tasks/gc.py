"""Garbage of an output folder: what neither its run, nor its model, nor a sweep in it needs.

Needed are the stages that run.json names, those that the linked model was tuned on, those of every
sweep, models that MLflow has yet to register, and what these were made from; a cached result as
long as what it refers to is. What has been touched since a run here ended may belong to one that is
not through yet, and stays. So do files of any other kind.
"""

import contextlib
import json
import shutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tasks.index.build import TABLES
from tasks.output.json_file import read_json, read_origin
from tasks.output.manifests import made_from
from tasks.output.model_folder import MODEL_FILE
from tasks.output.record import RUN_FILE, read_run
from tasks.tracking.journal import TRACKING, journals
from toolformer_core.errors import ConfigError
from toolformer_core.shards import read_manifest, stage_path

_STAGES = (*TABLES, "finetune")
_PARTS = ("*.parquet", "manifest.json", "checkpoint-*", "model", "job.json", "ending.json")
"""What we put into the folder of a stage."""
_WRITTEN = (
    "",
    *(f"{n}/**/" for n in (TRACKING, "sweeps", "champion", *(f"{s}/*/*" for s in _STAGES))),
)
"""Where we write at temporary names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbage:
    """A file or folder that nothing needs."""

    kind: str  # stages, results, checkpoints, champions, temporaries or locks
    path: Path
    num_bytes: int


def find_garbage(root: Path, before: float) -> list[Garbage]:
    """What nothing needs, and nothing has touched since `before` (seconds since 1970).

    Raises: ConfigError if the folder holds no run, a record in it is broken or too old to say what
        it needs, or a run is at work in it.
    """
    _check_idle(root)  # first: what ends in between needs more than was read before
    needed = needed_folders(root)
    folders = (path for path in root.glob("*/*/*") if path.parts[-3] in _STAGES and path.is_dir())
    gone = {
        path.relative_to(root).as_posix()
        for path in folders
        if path.relative_to(root).as_posix() not in needed and _is_old(path, root, before)
    }
    garbage = {
        path: kind
        for kind, paths in _unneeded(root, needed, gone).items()
        for path in paths
        if kind == "stages" or _is_old(path, root, before)
    }
    for path in sorted(_temporaries(root)):  # folders before what lies in them
        if not any(parent in garbage for parent in path.parents) and _is_old(path, root, before):
            garbage[path] = "temporaries"
    return [
        Garbage(kind=kind, path=path, num_bytes=sum(file.lstat().st_size for file in _files(path)))
        for path, kind in garbage.items()
    ]


def _unneeded(
    root: Path, needed: Collection[str], gone: Collection[str]
) -> dict[str, Iterable[Path]]:
    """By kind what would go, of whatever age; of stages what lies in the folders that have gone."""
    return {
        "stages": (path for name in sorted(gone) for path in _parts(root / name)),
        "results": _stale_results(root, gone),
        "checkpoints": (
            path
            for name in sorted(needed)
            for path in sorted(root.glob(f"{name}/checkpoint-*"))
            if name.startswith("finetune/")
        ),
        "champions": _old_champions(root, needed),
        # That of run.json is taken by every run.
        "locks": (path for path in root.glob("locks/*.lock") if path.stem != RUN_FILE),
    }


def delete(garbage: Iterable[Garbage], root: Path) -> None:
    """Delete it, and the folders below ROOT that are empty then."""
    for one in garbage:
        if one.kind == "locks":
            # While it is held: whoever waits for it finds that it has gone, and makes a new one.
            with contextlib.suppress(Timeout), FileLock(one.path, timeout=0):
                one.path.unlink()
        elif one.path.is_dir() and not one.path.is_symlink():
            shutil.rmtree(one.path)
        else:
            one.path.unlink(missing_ok=True)
        for folder in one.path.relative_to(root).parents:
            if folder.name and (root / folder).is_dir() and not any((root / folder).iterdir()):
                (root / folder).rmdir()


def needed_folders(root: Path) -> set[str]:
    """Folders of stages, models and champions that must stay, as STAGE/TOOL/FINGERPRINT.

    Raises: ConfigError as find_garbage.
    """
    manifests = read_run(root).manifests
    for manifest in manifests:
        read_origin(manifest, "inputs")  # that it is there, too
    others = [root / other for other in _content(root / RUN_FILE).get("others", [])]
    own = [path.parent.relative_to(root).as_posix() for path in (*manifests, *others)]
    needed = made_from([*own, *_of_model(root), *_of_sweeps(root), *_unregistered(root)], root)
    published = [path for name in needed if (path := root / name / "manifest.json").is_file()]
    shards = (shard for path in published for shard in read_manifest(path).shards)
    return needed.union(map(stage_path, shards))


def _of_model(root: Path) -> Iterator[str]:
    """Where the linked model, its answers and, unless it is of another folder, its C* lie."""
    described = root / "model" / MODEL_FILE
    if not described.is_file():
        return
    model = _folder_of((root / "model").resolve())
    yield model
    augmented = Path(read_origin(described, "augmented"))
    if augmented.parts[0] != "..":
        yield augmented.parent.as_posix()
    # The run may be an annotation since, whose record does not name them.
    for answers in root.glob("evaluate/*/*/manifest.json"):
        if model in _content(answers).get("inputs", []):
            yield answers.parent.relative_to(root).as_posix()


def _of_sweeps(root: Path) -> Iterator[str]:
    for record in sorted(root.glob("sweeps/*/sweep.json")):
        content = _content(record)
        if "folders" not in content:
            raise ConfigError(
                f"{record} does not say which stages it needs: an older version wrote it; repeat "
                f"the sweep, which takes all from the cache, or delete {record.parent}"
            )
        yield from content["folders"]


def _unregistered(root: Path) -> Iterator[str]:
    """Where the models of this folder lie that MLflow has not registered yet."""
    actions = (action for journal in journals(root) for action, _ in journal.after())
    for action in actions:
        if action["do"] == "register" and not Path(action["model"]["path"]).is_absolute():
            yield Path(action["model"]["path"]).parent.as_posix()


def _content(path: Path) -> dict[str, Any]:  # Any: settings of every kind
    return read_json(path, "run again, which writes it")


def _check_idle(root: Path) -> None:
    """Nothing, if no flow is at work here, nor a shard being computed.

    Raises: ConfigError if one is.
    """
    for journal in journals(root):
        # To ask one that has gone since would make its folder again.
        if journal.folder.is_dir() and journal.is_alive():
            raise ConfigError(
                f"a run is at work in {root} (it writes {journal.folder}); wait for its end"
            )
    for path in root.glob("locks/*.lock"):
        try:
            FileLock(path).acquire(timeout=0).lock.release()
        except Timeout as error:
            raise ConfigError(
                f"a run is at work in {root} ({path.name} is held); wait for its end"
            ) from error


def _parts(folder: Path) -> Iterator[Path]:
    for pattern in _PARTS:
        yield from sorted(folder.glob(pattern))


def _stale_results(root: Path, gone: Collection[str]) -> Iterator[Path]:
    """Prefect's records of task runs whose shards or model have gone, or are about to."""
    for path in sorted(root.glob("results/*")):
        try:
            result = json.loads(json.loads(path.read_text(encoding="utf-8"))["result"])
        except (OSError, ValueError, TypeError, KeyError):
            continue  # none of ours
        folders = set(_result_folders(result))
        if any(name in gone or not (root / name).is_dir() for name in folders):
            yield path


def _result_folders(value: Any) -> Iterator[str]:  # Any: JSON
    """Folders of the shards and models that a stored result refers to."""
    if isinstance(value, list):
        for item in value:
            yield from _result_folders(item)
    elif isinstance(value, dict):
        if isinstance(value.get("path"), str) and "digest" in value:
            yield _folder_of(Path(value["path"]))
        for item in value.values():
            yield from _result_folders(item)


def _folder_of(path: Path) -> str:
    """STAGE/TOOL/FINGERPRINT of a shard or a model, which both lie right in that folder."""
    return "/".join(path.parts[-4:-1])


def _temporaries(root: Path) -> Iterator[Path]:
    """What is moved into place when it is whole, or deleted; never below folders of other kinds."""
    for place in _WRITTEN:
        yield from root.glob(f"{place}.*.tmp")
        yield from root.glob(f"{place}.index-*")


def _old_champions(root: Path, needed: Collection[str]) -> Iterator[Path]:
    """Copies of registered models with which none of the needed stages has to do."""
    used = {"/".join(name.split("/")[:2]) for name in needed}
    for path in sorted(root.glob("champion/*")):
        if path.is_dir() and path.relative_to(root).as_posix() not in used:
            yield path


def _files(path: Path) -> Sequence[Path]:
    """The file, or all files below the folder."""
    if path.is_dir() and not path.is_symlink():
        return [file for file in path.rglob("*") if file.is_symlink() or file.is_file()]
    return [path]


def _is_old(path: Path, root: Path, before: float) -> bool:
    """Whether neither it nor a file below it was written since a run ended that may need it."""
    ends = [(root / RUN_FILE).stat().st_mtime]
    if path.is_relative_to(root / "finetune") and (root / "model").is_symlink():
        # Of trainings: when the model was linked, for calibrate-calls writes into it later.
        ends.append((root / "model").lstat().st_mtime)
    newest = max(file.lstat().st_mtime for file in _files(path) or [path])
    return newest < min(before, max(ends))
