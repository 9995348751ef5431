"""MLflow: one parent run per pipeline run, one child per stage, addressed by explicit run ids.

The active run of MLflow is per thread, so nothing here relies on it. Tracking is best effort: an
unreachable store is a warning, and the results in Parquet and DuckDB stay whole.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from tasks._policies import effect_task
from tasks.figures import figures
from tasks.index import flat_settings, funnel, query
from tasks.publish import git_commit
from tasks.sweep_figures import sweep_figures
from toolformer_core.config import PipelineConfig, Runtime
from toolformer_core.finetune import FinetuneResult
from toolformer_core.fingerprint import fingerprint
from toolformer_core.settings import per_tool
from toolformer_core.shards import read_manifest, total_counts
from toolformer_core.variations import Cell, Variation

EXPERIMENT = "toolformer"
_MAX_PARAM_CHARS = 500
_MAX_BATCH = 1000  # metrics that MLflow takes at a time
_LIVE_SECONDS = 5.0
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def tracking_uri(runtime: Runtime) -> str:
    """The MLflow store of a run."""
    return runtime.tracking_uri or f"sqlite:///{runtime.home.absolute() / 'mlflow.db'}"


@effect_task
def start_tracking(
    config: PipelineConfig, runtime: Runtime, sections: tuple[str, ...] | None = None
) -> str | None:
    """Open the parent run, log the settings; its run id, or None if the store is unreachable.

    `sections`: the parts of the settings that the run depends on; None: all.
    """
    return _open_run(flow_run.name or "toolformer", _params(config, sections), config, runtime, {})


@effect_task
def start_sweep(
    config: PipelineConfig, varied: Mapping[str, Sequence[str]], runtime: Runtime
) -> str | None:
    """Open the parent run of a sweep, with the values of what varies; see start_tracking."""
    params = {name: ", ".join(values) for name, values in varied.items()}
    return _open_run(flow_run.name or "sweep", params, config, runtime, {})


@effect_task
def start_cell(parent: str | None, cell: Cell, runtime: Runtime) -> str | None:
    """Open the run of a cell within its sweep; its params are numbers wherever they can be."""
    if parent is None:
        return None
    config = cell.config
    params = {
        **_paper_params(config),
        "seed": config.sample.seed,
        "model": config.model.name_or_path,
        **cell.values,
    }
    return _open_run(cell.name, params, config, runtime, {MLFLOW_PARENT_RUN_ID: parent})


@effect_task
def finish_cell(
    run: str | None,
    metrics: Mapping[str, float],
    scores: Sequence[Mapping[str, Any]],
    runtime: Runtime,
) -> None:
    """Log the figures of a cell, and close its run."""
    _log_run(run, _points({**metrics, **_score_metrics(scores)}), runtime, closes=True)


@effect_task
def track_stage(
    parent: str | None, stage: str, manifests: Sequence[Path], runtime: Runtime
) -> None:
    """A child run with the stage's counts per tool and reason."""
    metrics: dict[str, float] = {}
    for manifest in manifests:
        ref = read_manifest(manifest)
        metrics[f"{stage}/{ref.tool}/shards_count"] = len(ref.shards)
        metrics[f"{stage}/{ref.tool}/shards_cached_count"] = ref.num_cached
        for reason, count in total_counts(ref).items():
            metrics[f"{stage}/{ref.tool}/{reason}_count".replace(":", "/")] = count
    _log_child(parent, stage, _points(metrics), runtime)


@effect_task
def track_losses(parent: str | None, index: Path, config: PipelineConfig, runtime: Runtime) -> None:
    """On the parent run: the funnel, tau_f, k and the loss quantiles of every tool."""
    metrics: dict[str, float] = {}
    for tool, counts in funnel(index).items():
        numbers = {name: n for name, n in counts.items() if not isinstance(n, dict)}
        for name, count in {**numbers, **counts["dropped"]}.items():
            metrics[f"filter/{tool}/{name}_count"] = count
        metrics[f"filter/{tool}/tau_f_nats"] = per_tool(
            config.filter.filtering_threshold, tool, "filtering_threshold"
        )
    columns = ", ".join(
        f"quantile_cont({loss}, {q}) AS {loss}_q{round(q * 100):02d}"
        for loss in ("loss_reduction", "loss_without_call", "loss_with_result")
        for q in _QUANTILES
    )
    names, rows = query(
        index,
        f"SELECT tool, {columns} FROM candidates WHERE loss_with_result IS NOT NULL GROUP BY tool",
    )
    for row in rows:
        values = dict(zip(names, row, strict=True))
        tool = values.pop("tool")
        metrics |= {f"filter/{tool}/{name}_nats": v for name, v in values.items() if v is not None}
    _log_run(parent, _points(metrics), runtime)


@effect_task
def track_finetune(parent: str | None, result: FinetuneResult, runtime: Runtime) -> None:
    """Complete the child run "finetune": sizes, the chosen step, and what it lacks of the curves.

    It has them where the training was part of this run and the store was there all the time.
    """
    if parent is None:
        return
    sizes = {
        "finetune/train_texts_count": result.num_train,
        "finetune/dev_texts_count": result.num_dev,
        "finetune/chosen_step": result.chosen_step,
    }
    try:
        client = MlflowClient(tracking_uri(runtime))
        child = _open_child(client, parent, "finetune")
        points = _points(sizes)
        for name, curve in result.curves.items():
            key = _curve_key("finetune", name)
            known = {point.step for point in client.get_metric_history(child, key)}
            points += [Metric(key, v, _now(), step) for step, v in curve if step not in known]
        _log_in_batches(client, child, points)
        client.set_terminated(child)
    except (MlflowException, OSError) as error:
        get_run_logger().warning("MLflow did not take stage finetune: %s", error)


@contextmanager
def live_metrics(
    parent: str | None, stage: str, runtime: Runtime
) -> Iterator[Callable[[int, Mapping[str, float]], None] | None]:
    """What logs the figures of a step to the stage's child run while the stage goes on."""
    if parent is None:
        yield None
        return
    live = _LiveChild(parent, stage, runtime)
    try:
        yield live.report
    except BaseException:
        live.flush(status="FAILED")
        raise
    live.flush()


class _LiveChild:
    """Collects figures for some seconds, then logs them: a call takes tens of milliseconds."""

    def __init__(self, parent: str, stage: str, runtime: Runtime) -> None:
        self._parent = parent
        self._stage = stage
        self._runtime = runtime
        self._points: list[Metric] = []
        self._flushed = time.monotonic()
        self._is_reachable = True

    def report(self, step: int, figures: Mapping[str, float]) -> None:
        """Take the figures of a step."""
        self._points += [
            Metric(_curve_key(self._stage, name), value, _now(), step)
            for name, value in figures.items()
        ]
        if time.monotonic() - self._flushed >= _LIVE_SECONDS:
            self.flush()

    def flush(self, status: str | None = None) -> None:
        """Log what has come together; a store that fails once is not asked again."""
        points, self._points = self._points, []
        if not (points or status) or not self._is_reachable:
            return
        try:
            client = MlflowClient(tracking_uri(self._runtime))
            child = _open_child(client, self._parent, self._stage)
            _log_in_batches(client, child, points)
            if status:
                client.set_terminated(child, status=status)
        except (MlflowException, OSError) as error:
            self._is_reachable = False
            get_run_logger().warning("MLflow does not take live metrics: %s", error)
        self._flushed = time.monotonic()


@effect_task
def close_tracking(parent: str | None, runtime: Runtime) -> None:
    """Close a parent run that has no report."""
    if parent is None:
        return
    try:
        MlflowClient(tracking_uri(runtime)).set_terminated(parent)
    except (MlflowException, OSError) as error:
        get_run_logger().warning("MLflow did not close the run: %s", error)


@effect_task
def track_scores(parent: str | None, scores: Sequence[Mapping[str, Any]], runtime: Runtime) -> None:
    """On the parent run: the figures of every benchmark and arm."""
    _log_run(parent, _points(_score_metrics(scores)), runtime)


def _score_metrics(scores: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {
        f"evaluate/{score['benchmark']}/{score['arm']}_{name}": float(figure)
        for score in scores
        for name, figure in score.items()
        if name not in ("benchmark", "arm", "metric") and figure is not None
    }


@effect_task
def finish_tracking(parent: str | None, index: Path, report: Path, runtime: Runtime) -> str | None:
    """Log the figures and the report, close the parent run; a link to it for people."""
    return _finish(parent, lambda: figures(index), report, runtime)


@effect_task
def finish_sweep(
    parent: str | None,
    index: Path,
    variations: Sequence[Variation],
    report: Path,
    runtime: Runtime,
) -> str | None:
    """Log the figures and the report of a sweep, close its run; a link to it for people."""
    return _finish(parent, lambda: sweep_figures(index, variations), report, runtime)


def _finish(
    parent: str | None, draw: Callable[[], Mapping[str, Figure]], report: Path, runtime: Runtime
) -> str | None:
    if parent is None:
        return None
    try:
        client = MlflowClient(tracking_uri(runtime))
        client.log_artifact(parent, str(report))
        for name, figure in draw().items():
            client.log_figure(parent, figure, f"figures/{name}.png")
        client.set_terminated(parent)
    except (MlflowException, OSError) as error:
        get_run_logger().warning("MLflow did not take the report: %s", error)
        return None
    return f"run {parent} in {tracking_uri(runtime)}"


def fail_tracking(runtime: Runtime, flow_run_id: str) -> None:
    """Close what a failed flow run has left open as failed: its run, or its sweep and the cell."""
    try:
        client = MlflowClient(tracking_uri(runtime))
        experiment = client.get_experiment_by_name(EXPERIMENT)
        wanted = f"tags.prefect_flow_run_id = '{flow_run_id}' and attributes.status = 'RUNNING'"
        for run in client.search_runs([experiment.experiment_id], wanted) if experiment else []:
            client.set_terminated(run.info.run_id, status="FAILED")
    except (MlflowException, OSError):
        # The flow has failed already and says why; a store that is away as well adds nothing.
        return


def _open_run(
    name: str,
    params: Mapping[str, Any],
    config: PipelineConfig,
    runtime: Runtime,
    tags: Mapping[str, str],
) -> str | None:
    """A new run of this flow run with its params; None if the store is unreachable."""
    own = {
        "fingerprint": fingerprint(config),
        "git_commit": git_commit(),
        "prefect_flow_run_id": str(flow_run.id or ""),
    }
    try:
        client = MlflowClient(tracking_uri(runtime))
        experiment = _experiment_id(client, runtime)
        run = client.create_run(experiment, tags={**own, **tags}, run_name=name)
        client.log_batch(
            run.info.run_id,
            params=[Param(key, str(value)[:_MAX_PARAM_CHARS]) for key, value in params.items()],
        )
    except (MlflowException, OSError) as error:
        get_run_logger().warning("MLflow is not reachable, this run is not tracked: %s", error)
        return None
    return str(run.info.run_id)


def _experiment_id(client: MlflowClient, runtime: Runtime) -> str:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is not None:
        return str(experiment.experiment_id)
    artifacts = (runtime.home.absolute() / "mlartifacts").as_uri()
    return str(client.create_experiment(EXPERIMENT, None if runtime.tracking_uri else artifacts))


def _paper_params(config: PipelineConfig) -> dict[str, Any]:
    """The paper's symbols as params of their own, per tool, so that runs compare by them."""
    symbols: dict[str, Any] = {
        "tau_s": config.sample.sampling_threshold,
        "k_positions": config.sample.max_positions,
        "m": config.sample.samples_per_position,
        "tau_f": config.filter.filtering_threshold,
    }
    by_tool = {
        f"{symbol}.{tool}": per_tool(value, tool, symbol)
        for symbol, value in symbols.items()
        for tool in config.tools.enabled
    }
    decode = config.evaluate.decode
    k = decode.call_top_k if decode.call_threshold is None else "none"
    return {**symbols, **by_tool, "k": k}


def _params(config: PipelineConfig, sections: tuple[str, ...] | None) -> dict[str, Any]:
    settings = flat_settings(config)
    if sections is None:
        return {**settings, **_paper_params(config)}
    chosen = {key: v for key, v in settings.items() if key.partition(".")[0] in sections}
    return {**chosen, "k": _paper_params(config)["k"]}


def _points(metrics: Mapping[str, float]) -> list[Metric]:
    now = _now()
    return [Metric(name, float(value), now, 0) for name, value in metrics.items()]


def _now() -> int:
    return int(time.time() * 1000)


def _curve_key(stage: str, name: str) -> str:
    return f"{stage}/{name}_nats" if name.endswith("loss") else f"{stage}/{name}"


def _open_child(client: MlflowClient, parent: str, name: str) -> str:
    """The id of the parent's child run of that name, which is made if there is none."""
    experiment = client.get_run(parent).info.experiment_id
    wanted = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent}' and attributes.run_name = '{name}'"
    for run in client.search_runs([experiment], wanted, max_results=1):
        return str(run.info.run_id)
    tags = {MLFLOW_PARENT_RUN_ID: parent, MLFLOW_RUN_NAME: name}
    return str(client.create_run(experiment, tags=tags, run_name=name).info.run_id)


def _log_in_batches(client: MlflowClient, run_id: str, points: Sequence[Metric]) -> None:
    for first in range(0, len(points), _MAX_BATCH):
        client.log_batch(run_id, metrics=list(points[first : first + _MAX_BATCH]))


def _log_run(
    run_id: str | None, points: Sequence[Metric], runtime: Runtime, *, closes: bool = False
) -> None:
    if run_id is None:
        return
    try:
        client = MlflowClient(tracking_uri(runtime))
        _log_in_batches(client, run_id, points)
        if closes:
            client.set_terminated(run_id)
    except (MlflowException, OSError) as error:
        get_run_logger().warning("MLflow did not take %d metrics: %s", len(points), error)


def _log_child(parent: str | None, name: str, points: Sequence[Metric], runtime: Runtime) -> None:
    if parent is None:
        return
    try:
        client = MlflowClient(tracking_uri(runtime))
        child = _open_child(client, parent, name)
        client.log_batch(child, metrics=list(points))
        client.set_terminated(child)
    except (MlflowException, OSError) as error:
        get_run_logger().warning("MLflow did not take stage %s: %s", name, error)
