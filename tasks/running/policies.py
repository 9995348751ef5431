"""Cache keys, retry rules, runners and gathering: the only place where these are spelled.

Prefect's stock cache policies do not fit: one includes the run's id and never hits again, one
forgets the task, one sees only the wrapper's own lines. Our key is the task, the stage's version
and the content of its inputs; its Location is not part of it.
"""

import functools
import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar, cast, get_type_hints

from prefect import Task, task
from prefect.cache_policies import NO_CACHE, CachePolicy
from prefect.client.schemas.objects import State
from prefect.context import TaskRunContext
from prefect.futures import as_completed
from prefect.results import ResultStore
from prefect.settings import PREFECT_TASKS_REFRESH_CACHE
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.tasks import MaterializingTask

from tasks.running.locks import one_at_a_time
from tasks.running.results import lock_folder, placed, result_storage
from tasks.running.runners import Runner, shard_runner
from toolformer_core.config.runtime import Runtime
from toolformer_core.errors import TransientModelError, TransientStorageError, TransientToolError
from toolformer_core.fingerprint import canonical
from toolformer_core.progress import progress
from toolformer_core.shards import ShardRef

Result = TypeVar("Result")

logger = logging.getLogger(__name__)

_EFFECT_TIMEOUT_SECONDS = 6 * 3600  # a search index over a whole encyclopedia takes hours
_READS_AT_ONCE = 8
_RETRY_DELAYS_SECONDS = [2.0, 10.0, 30.0]

MODEL_RUNNER = cast(Runner, ThreadPoolTaskRunner(max_workers=1))
"""One model task at a time: torch itself uses all cores, or the whole accelerator."""
TOOL_RUNNER = cast(Runner, ThreadPoolTaskRunner(max_workers=8))


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """Where a task puts its files, what it runs on and who watches: what decides no result."""

    folder: str
    runtime: Runtime
    tracking: str | None = None  # the MLflow run that is told while the task runs


class Inputs:
    """Base of inputs that go together: in a key each field is an input of its own."""

    __slots__ = ()


def content_of(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the result of a task, by name: all inputs but its Location."""
    content: dict[str, Any] = {}
    for name, value in inputs.items():
        if isinstance(value, Inputs):
            content |= {f.name: getattr(value, f.name) for f in fields(cast(Any, value))}
        elif not isinstance(value, Location):
            content[name] = value
    return content


@dataclass(kw_only=True)
class ContentKey(CachePolicy):
    """Key of a task run: stage, version, and the canonical form of what decides its result."""

    stage: str
    version: int

    def compute_key(
        self,
        task_ctx: TaskRunContext,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],
        **kwargs: Any,
    ) -> str:
        """The key; equal inputs give equal keys in every process and every flow."""
        return self.key_of(task_ctx.task, inputs)

    def key_of(self, shard: Task[..., Any], inputs: Mapping[str, Any]) -> str:
        """The key of a task with these inputs."""
        text = json.dumps(canonical(content_of(inputs)), sort_keys=True)
        name = f"{self.stage}-v{self.version}-{shard.name}"
        return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def content_key(shard: Task[..., Any]) -> ContentKey:
    """The key of a task that shard_task has made."""
    policy = shard.cache_policy
    assert isinstance(policy, ContentKey), f"{shard.name} is no task of shard_task"
    return policy


def is_transient(_: Task[..., Any], run: Any, state: State[Any]) -> bool:  # Any: Prefect's types
    """Whether a failed task run is worth another try: outages are, bad data is not."""
    error = state.result(raise_on_failure=False)
    return isinstance(
        error,
        TransientToolError
        | TransientModelError
        | TransientStorageError
        | ConnectionError
        | TimeoutError,
    )


def shard_task(
    stage: str, version: int, *, tag: str | None = None
) -> Callable[[Callable[..., Result]], Task[..., Result]]:
    """Decorator of a task from shards to one shard: cached by content, retried if transient."""
    decorator = task(
        cache_policy=ContentKey(stage=stage, version=version),
        persist_result=True,
        result_serializer="json",
        retries=len(_RETRY_DELAYS_SECONDS),
        retry_delay_seconds=_RETRY_DELAYS_SECONDS,
        retry_jitter_factor=0.5,
        retry_condition_fn=is_transient,
        tags=[tag] if tag else [],
    )
    return lambda function: decorator(_timed(function))


def _timed(function: Callable[..., Result]) -> Callable[..., Result]:
    """The function, which notes in the shard's reference how long it took."""

    @functools.wraps(function)
    def timed(*args: Any, **kwargs: Any) -> Result:  # Any: those of the function
        started = time.monotonic()
        result = function(*args, **kwargs)
        if isinstance(result, ShardRef):
            result = replace(result, seconds=round(time.monotonic() - started, 3))
        return result

    return timed


def effect_task(function: Callable[..., Result]) -> MaterializingTask[..., Result]:
    """Decorator of a task that records something and is run again each time; idempotent.

    It makes no asset, unless as_asset says so where it is called.
    """
    return MaterializingTask(
        function,
        assets=[],
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=1,
        retry_delay_seconds=2,
        retry_condition_fn=is_transient,
        timeout_seconds=_EFFECT_TIMEOUT_SECONDS,
    )


def run_shards(
    shard: Task[..., Result],
    calls: Sequence[Mapping[str, Any]],
    *,
    runtime: Runtime,
    names: Sequence[str],
    is_intact: Callable[[Result], bool],
) -> tuple[list[Result], int]:
    """Results of all calls in order, and how many came from the cache.

    The cache is asked first, here: a task run that finds its result there takes ten times as long,
    and first waits for a slot of its limits. What has a result but no longer its file, or a result
    of another class than the task returns today, is computed anew. Waits for every run before it
    asks for a result, so that one failure does not drop the queue behind it.
    """
    stored = shard.with_options(
        result_storage=result_storage(runtime),
        cache_policy=one_at_a_time(shard.cache_policy, lock_folder(runtime)),
    )
    description = names[0].rpartition("-")[0] if names else shard.name
    started = time.monotonic()
    found = _cached(stored, calls)
    returned = get_type_hints(shard.fn)["return"]
    of_its_class = {
        k: placed(result, runtime) for k, result in found.items() if isinstance(result, returned)
    }
    results = {k: result for k, result in of_its_class.items() if is_intact(result)}
    num_cached = len(results)
    if len(results) < len(calls):
        with shard_runner(runtime, stored) as runner:
            futures = {
                k: runner.submit(_named(stored, names[k], is_stale=k in found), dict(call))
                for k, call in enumerate(calls)
                if k not in results
            }
            with progress(description, unit="shard", total=len(futures)) as bar:
                for future in as_completed(list(futures.values())):
                    future.wait()
                    bar.update()
        results |= {k: placed(future.result(), runtime) for k, future in futures.items()}
        # Another run may have been faster.
        num_cached += sum(future.state.name == "Cached" for future in futures.values())
    logger.info(
        "%-20s %d shards, %d cached, %.0f s",
        description,
        len(results),
        num_cached,
        time.monotonic() - started,
    )
    return [results[k] for k in range(len(calls))], num_cached


def _named(shard: Task[..., Result], name: str, *, is_stale: bool) -> Task[..., Result]:
    """The task with a run's name, blind to a stored result that is stale."""
    if is_stale:
        return shard.with_options(task_run_name=name, refresh_cache=True)
    return shard.with_options(task_run_name=name)


def _cached(
    stored: Task[..., Result],
    calls: Sequence[Mapping[str, Any]],
) -> dict[int, Any]:  # Any: an older version may have stored results of another class
    """The results that are stored, by the call's place; their files are not looked at."""
    if PREFECT_TASKS_REFRESH_CACHE.value():
        return {}
    policy = content_key(stored)
    # Without its lock: what another run computes just now is waited for by the task.
    store = cast(ResultStore, ResultStore().update_for_task(stored))
    # Without its memory: threads may not share that.
    store = store.model_copy(update={"lock_manager": None, "cache_result_in_memory": False})
    keys = [policy.key_of(stored, call) for call in calls]
    with ThreadPoolExecutor(_READS_AT_ONCE) as pool:  # an object store takes its time for each
        records = list(pool.map(functools.partial(_read, store), keys))
    return {k: record.result for k, record in enumerate(records) if record is not None}


def _read(store: ResultStore, key: str) -> Any:  # Any: a record of Prefect
    """The record of a key; None if there is none, or it was cut."""
    try:
        return store.read(key)
    except Exception:  # each kind of storage has errors of its own; so does Prefect's `exists`
        return None


def run_one(
    single: Task[..., Result],
    call: Mapping[str, Any],
    *,
    runtime: Runtime,
    name: str,
    is_intact: Callable[[Result], bool],
) -> tuple[Result, bool]:
    """The result of one task run in this process, and whether it was cached; see run_shards."""
    results, num_cached = run_shards(
        single,
        [call],
        runtime=runtime.model_copy(update={"runner": "threads"}),
        names=[name],
        is_intact=is_intact,
    )
    return results[0], num_cached == 1
