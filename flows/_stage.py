"""The pattern that every stage flow shares: map a task over shards, publish the manifest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import Task

from tasks.loaded_tools import ToolRef
from tasks.output.manifests import input_folders, publish_stage
from tasks.running.assets import as_asset
from tasks.running.policies import Location, content_key, content_of, run_shards
from toolformer_core.config.runtime import Runtime
from toolformer_core.fingerprint import fingerprint
from toolformer_core.models import ModelRef
from toolformer_core.shards import ShardRef, is_intact, shard_folder

ShardTask = Task[..., ShardRef]


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotated:
    """The stages from C to the losses: what they were made with, and their manifests."""

    model: ModelRef
    tools: list[ToolRef]
    documents: Path
    scored: list[Path]  # one per tool


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
    contents, shared = [content_of(one) for one in inputs], content_of(settings)
    identity = fingerprint(stage, content_key(shard).version, contents, shared)
    folder = shard_folder(runtime.shard_root, stage, tool, identity)
    location = Location(folder=folder, runtime=runtime)
    refs, num_cached = run_shards(
        shard,
        [{**one, **settings, "location": location} for one in inputs],
        runtime=runtime,
        names=[f"{stage}-{tool}-{index:05d}" for index in range(len(inputs))],
        is_intact=is_intact,
    )
    used = input_folders([contents, shared], runtime.root)
    used |= {"/".join(manifest.parts[-4:-1]) for manifest in made_from}
    details = {**shared, "inputs": sorted(used)}
    publish = as_asset(publish_stage, stage, runtime.root)
    return publish(stage, tool, identity, refs, num_cached, details, runtime.root)
