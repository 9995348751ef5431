"""Where shards are computed: in threads of this process, or by the workers of a cluster.

One cluster, Dask or Ray, serves all stages: it starts, or is connected to, for the first shard that
has to be computed, and ends with the process. A worker is a process that runs one task at a time
and loads a model once. It must have this project's packages, see the same folders and reach the
Prefect server; a cluster on this machine does.
"""

import atexit
import contextlib
import functools
import importlib.util
import os
import socket
from collections.abc import Iterator
from typing import Any, cast
from urllib.parse import urlsplit

from prefect import Task
from prefect.context import FlowRunContext
from prefect.futures import PrefectFuture
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.task_runners import TaskRunner

from toolformer_core.config.runtime import Runtime
from toolformer_core.errors import ConfigError

Runner = TaskRunner[PrefectFuture[Any]]

_CONNECT_SECONDS = 10


def check_runner(runtime: Runtime) -> None:
    """Nothing, if shards can be computed where the runtime says.

    Raises: ConfigError for a package that is missing, or a cluster that does not answer.
    """
    runner, address = runtime.runner, runtime.runner_address
    if runner == "threads":
        if address:
            raise ConfigError(
                f"--runner-address {address}: of which cluster? pass --runner dask or ray"
            )
        return
    if importlib.util.find_spec(f"prefect_{runner}") is None:
        raise ConfigError(
            f'--runner {runner} needs prefect-{runner}; pip install "toolformer-prefect[{runner}]"'
        )
    if address:
        if PREFECT_API_URL.value() is None:
            raise ConfigError(
                f"--runner-address {address}: its workers need a Prefect server; start one (make "
                "ui) and set PREFECT_API_URL to an address that they reach"
            )
        _check_address(runner, address)


def _check_address(runner: str, address: str) -> None:
    """Whether anything listens there: Ray would ask for ever.

    Raises: ConfigError if not.
    """
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        socket.create_connection((parts.hostname or "", parts.port or 0), _CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--runner-address {address}: nothing answers ({error}); expected the address of a "
            f"scheduler, as in {_EXAMPLES[runner]}"
        ) from error


@contextlib.contextmanager
def shard_runner(runtime: Runtime, task: Task[..., Any]) -> Iterator[Runner]:
    """What computes the shards of a task: the runner of the flow, or the cluster's."""
    flow = FlowRunContext.get()
    assert flow is not None, "shards are computed within a flow"
    if runtime.runner == "threads":
        yield flow.task_runner
        return
    runner = _cluster(runtime.runner, runtime.runner_address, runtime.runner_workers)
    # A server that lives within this process would not be found, and each worker start its own.
    with temporary_settings({PREFECT_API_URL: str(flow.client.api_url)}):
        if runtime.runner == "ray" and runtime.device == "cuda" and "gpu" in task.tags:
            from prefect_ray.context import remote_options

            with remote_options(num_gpus=1):  # Ray gives each worker a GPU of its own
                yield runner
        else:
            yield runner


@functools.cache
def _cluster(kind: str, address: str, num_workers: int) -> Runner:
    """The running cluster's runner, which is left when the process ends."""
    runner = (_dask if kind == "dask" else _ray)(address, num_workers)
    _RUNNING.append(runner.__enter__())
    atexit.register(close_cluster)
    return cast(Runner, runner)


_RUNNING: list[Any] = []  # Any: Dask's or Ray's runner
_EXAMPLES = {"dask": "tcp://HOST:8786", "ray": "ray://HOST:10001"}


def close_cluster() -> None:
    """Leave the clusters of this process; those that it started end."""
    _cluster.cache_clear()
    while _RUNNING:
        _RUNNING.pop().__exit__(None, None, None)


def _dask(address: str, num_workers: int) -> Any:  # Any: the package may be missing
    os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "error")  # of the workers, too
    import dask
    from prefect_dask.task_runners import DaskTaskRunner

    if address:
        return DaskTaskRunner(address=address)
    threads = _threads(num_workers)
    dask.config.set(
        {
            "distributed.worker.daemon": False,  # tools run in processes below the worker's
            "distributed.nanny.pre-spawn-environ": {"OMP_NUM_THREADS": threads},
        }
    )
    return DaskTaskRunner(
        cluster_kwargs={
            "n_workers": num_workers,
            "threads_per_worker": 1,
            "memory_limit": None,
            "dashboard_address": "127.0.0.1:0",  # not 8787, which a second cluster wants too
        }
    )


def _ray(address: str, num_workers: int) -> Any:  # Any: the package may be missing
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from prefect_ray.task_runners import RayTaskRunner

    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if address:
        return RayTaskRunner(address=address, init_kwargs=quiet)
    os.environ.setdefault("OMP_NUM_THREADS", _threads(num_workers))
    # Or else RAY_ADDRESS, or a cluster that runs on this machine, would be taken.
    local = {"address": "local", "num_cpus": num_workers, "include_dashboard": False}
    return RayTaskRunner(init_kwargs={**quiet, **local})


def _threads(num_workers: int) -> str:
    """Threads of torch in each worker, so that all use the machine's cores once."""
    return os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // num_workers))
