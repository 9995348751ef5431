"""The pattern that every stage flow shares: map a task over shards, publish the manifest."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect import Task

from tasks._policies import run_shards
from tasks.assets import as_asset
from tasks.publish import input_folders, publish_stage
from toolformer_core.config import Runtime
from toolformer_core.fingerprint import fingerprint
from toolformer_core.shards import ShardRef, is_intact, shard_folder

ShardTask = Task[..., ShardRef]


def map_stage(  # noqa: PLR0913  # the last is optional
    stage: str,
    tool: str,
    shard: ShardTask,
    inputs: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
    runtime: Runtime,
    made_from: Sequence[Path] = (),
) -> Path:
    """Run one task per input, write the manifest, return its path.

    `made_from` are the manifests of the stages that the inputs are of: their shards may all lie in
    folders of earlier runs, one of which may have been killed before it wrote a manifest.
    The folder is named by the fingerprint of everything that decides the stage's content.
    """
    version = getattr(shard.cache_policy, "version", 0)
    identity = fingerprint(stage, version, list(inputs), dict(settings))
    folder = shard_folder(runtime.shard_root, stage, tool, identity)
    location: dict[str, Any] = {"folder": folder}
    if "runtime" in inspect.signature(shard.fn).parameters:
        location["runtime"] = runtime
    refs, num_cached = run_shards(
        shard,
        [{**one, **settings, **location} for one in inputs],
        runtime=runtime,
        names=[f"{stage}-{tool}-{index:05d}" for index in range(len(inputs))],
        is_intact=is_intact,
    )
    used = input_folders([list(inputs), dict(settings)], runtime.root)
    used |= {"/".join(manifest.parts[-4:-1]) for manifest in made_from}
    details = {**settings, "inputs": sorted(used)}
    publish = as_asset(publish_stage, stage, runtime.root)
    return publish(stage, tool, identity, refs, num_cached, details, runtime.root)
