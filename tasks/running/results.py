"""Where a run's shards and results lie: in its root, or in a storage that machines share."""

import functools
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect.filesystems import RemoteFileSystem

from tasks.running.locks import LOCKS
from toolformer_core.config.runtime import Runtime
from toolformer_core.corpus import CorpusShards
from toolformer_core.shards import ShardRef, relocated
from toolformer_core.storage import FILE_SYSTEM_OPTIONS, is_local


def result_storage(runtime: Runtime) -> Path | RemoteFileSystem:
    """Where Prefect keeps the results of tasks: beside the shards, to be lost or kept with them."""
    results = f"{runtime.shard_root}/results"
    return Path(results) if is_local(results) else _block(results)


@functools.lru_cache
def _block(url: str) -> RemoteFileSystem:
    """Prefect's block of a folder, under a name made from its URL: saving it again changes nothing.

    A task takes only a block that its server knows.
    """
    block = RemoteFileSystem(basepath=url, settings=FILE_SYSTEM_OPTIONS)
    name = f"toolformer-{hashlib.sha256(url.encode()).hexdigest()[:16]}"
    block.save(name, overwrite=True)
    return block


def lock_folder(runtime: Runtime) -> Path:
    """Where the locks of shards lie: beside them, if that is a folder of this machine."""
    base = runtime.shard_root
    return (Path(base) if is_local(base) else runtime.root) / LOCKS


def placed(result: Any, runtime: Runtime) -> Any:  # Any: what a task returns
    """A cached result with its files where they lie now: their folder may have been moved.

    If it was copied, they are those of the copy.
    """
    base = runtime.shard_root
    if isinstance(result, ShardRef):
        return relocated(result, base)
    if isinstance(result, CorpusShards):
        return replace(
            result,
            documents=tuple(relocated(shard, base) for shard in result.documents),
            quarantine=relocated(result.quarantine, base),
        )
    # Of a FinetuneResult, whose module would bring torch to where there may be none.
    model = getattr(result, "model", None)
    if model is not None:
        folder = Path(base, *Path(model.path).parts[-4:])  # finetune/all/FINGERPRINT/model
        if folder.is_dir():
            return replace(result, model=replace(model, path=str(folder)))
    return result
