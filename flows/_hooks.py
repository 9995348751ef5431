"""Flow hooks."""

from typing import Any

from prefect import Flow
from prefect.client.schemas.objects import FlowRun, State

# Before duckdb, which else ends a process with lines about what it has leaked.
import tasks.running.policies  # noqa: F401
from tasks.tracking.runs import fail_tracking
from toolformer_core.config.runtime import Runtime


def close_failed(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Flow hook: a failed or crashed flow run ends its MLflow run too."""
    fail_tracking(Runtime.model_validate(flow_run.parameters["runtime"]), str(flow_run.id))
