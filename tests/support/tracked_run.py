"""A small flow that tracks everything a pipeline does, without doing it; and what MLflow holds."""

from mlflow.tracking import MlflowClient
from prefect import flow

from tasks.tracking.journal import RUN_TAG
from tasks.tracking.register import register_model
from tasks.tracking.runs import (
    finish_tracking,
    live_metrics,
    start_tracking,
    track_finetune,
    track_losses,
    track_stage,
)
from tasks.tracking.store import EXPERIMENT
from toolformer_core.finetune import FinetuneResult
from toolformer_core.models import ModelRef

OWN_TAGS = (RUN_TAG, "git_commit", "prefect_flow_run_id", "mlflow.parentRunId", "mlflow.runName")


@flow(flow_run_name="tell", validate_parameters=False)
def tell(project, manifests, model: ModelRef, runtime, between) -> str:
    """Track what a run of the project has made, `between` in the middle of it; our name of it."""
    tracking = start_tracking(project.config, runtime)
    track_stage(tracking, "corpus", manifests[:1], runtime)
    with live_metrics(tracking, "finetune", runtime) as report:
        report(1, {"train_loss": 2.0, "learning_rate": 0.1})
    between()
    curves = {"train_loss": [(1, 2.0), (2, 1.5)]}
    tuned = FinetuneResult(model=model, num_train=3, num_dev=1, chosen_step=2, curves=curves)
    track_finetune(tracking, tuned, runtime)
    track_losses(tracking, project.root / "calls.duckdb", project.config, runtime)
    register_model(tracking, model, runtime)
    finish_tracking(tracking, project.root / "report.html", runtime)
    return tracking


def held(store: str, tracking: str) -> dict:
    """All that MLflow holds of a run and its children, but for ids and times."""
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    runs = client.search_runs([experiment], f"tags.{RUN_TAG} LIKE '{tracking}%'")
    return {run.data.tags[RUN_TAG].removeprefix(tracking): _content(client, run) for run in runs}


def _content(client, run) -> dict:
    run_id = run.info.run_id
    parent = run.data.tags.get("mlflow.parentRunId")
    return {
        "name": run.info.run_name.partition("-")[0],
        "status": run.info.status,
        "params": run.data.params,
        "tags": {k: v for k, v in run.data.tags.items() if k not in OWN_TAGS},
        "parent": parent and client.get_run(parent).data.tags[RUN_TAG].partition("/")[1],
        "metrics": {
            key: [(point.step, point.value) for point in client.get_metric_history(run_id, key)]
            for key in run.data.metrics
        },
        "artifacts": sorted(
            entry.path
            for folder in (None, "figures")
            for entry in client.list_artifacts(run_id, folder)
        ),
        "models": [one.model_id for one in run.outputs.model_outputs],
    }
