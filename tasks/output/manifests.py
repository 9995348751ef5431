"""Manifests: what a stage made, and from what."""

import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.output.json_file import read_origin
from tasks.running.assets import describe_asset
from tasks.running.policies import effect_task
from toolformer_core.fingerprint import canonical
from toolformer_core.shards import (
    ShardRef,
    StageRef,
    read_manifest,
    stage_path,
    total_counts,
    write_manifest,
)


@effect_task
def publish_stage(
    stage: str,
    tool: str,
    fingerprint: str,
    shards: Sequence[ShardRef],
    num_cached: int,
    details: dict[str, Any],  # Any: settings of every kind
    root: Path,
) -> Path:
    """Write the manifest of a stage; its path stands for the stage from here on."""
    ref = StageRef(
        stage=stage,
        tool=tool,
        fingerprint=fingerprint,
        shards=tuple(shards),
        num_cached=num_cached,
    )
    describe_asset({"digest": ref.digest, "shards": len(shards), **total_counts(ref)})
    described = {name: canonical(value) for name, value in details.items()}
    return write_manifest(ref, root, {**described, "git_commit": git_commit()})


def input_folders(value: Any, root: Path) -> set[str]:  # Any: inputs of a stage, of every kind
    """Where below ROOT the shards and models among some inputs lie: STAGE/TOOL/FINGERPRINT.

    A shard is known by the end of its path, wherever the folder was when it was written.
    """
    if isinstance(value, ShardRef):
        return {stage_path(value)}
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return {folder for item in value for folder in input_folders(item, root)}
    path = Path(getattr(value, "path", ""))  # of a model
    return {"/".join(path.relative_to(root).parts[:3])} if path.is_relative_to(root) else set()


def made_from(folders: Iterable[str], root: Path) -> set[str]:
    """These folders of stages and all that they were made from, as their manifests say.

    Raises: ConfigError as read_origin does.
    """
    pending, found = list(folders), set[str]()
    while pending:
        folder = pending.pop()
        manifest = root / folder / "manifest.json"
        if folder not in found and manifest.is_file():
            pending += read_origin(manifest, "inputs")
        found.add(folder)
    return found


def load_stage(manifest: Path) -> StageRef:
    """The stage behind a manifest's path."""
    return read_manifest(manifest)


def git_commit() -> str:
    """The commit of the code that runs, or "unknown" outside a checkout."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"
