"""MLflow: one parent run per pipeline run, one child per stage, addressed by names of our own.

The active run of MLflow is per thread, so nothing here relies on it. What is tracked goes into the
journal of the flow run (journal.py) and from there to the store (store.py); `tracking` is
the name of a run there.
"""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from prefect.runtime import flow_run

from tasks.output.manifests import git_commit
from tasks.output.record import PICTURES
from tasks.running.policies import effect_task
from tasks.tracking.journal import Action, Journal, closing, measuring, opening, uploading
from tasks.tracking.store import conclude, record, settle, tracking_uri
from toolformer_core.call_rule import CallChoice
from toolformer_core.config.overrides import flat_settings
from toolformer_core.config.pipeline import DecodeConfig, PipelineConfig
from toolformer_core.config.runtime import Runtime
from toolformer_core.config.variations import Cell
from toolformer_core.fingerprint import fingerprint
from toolformer_core.shards import read_manifest, total_counts

if TYPE_CHECKING:
    from toolformer_core.finetune import FinetuneResult

_LIVE_SECONDS = 5.0
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@effect_task
def start_tracking(
    config: PipelineConfig, runtime: Runtime, sections: tuple[str, ...] | None = None
) -> str:
    """Open the parent run with the settings; its name.

    `sections`: the parts of the settings that the run depends on; None: all.
    """
    return _begin(
        flow_run.name or "toolformer", _params(config, sections, runtime), config, runtime
    )


@effect_task
def start_sweep(
    config: PipelineConfig, varied: Mapping[str, Sequence[str]], runtime: Runtime
) -> str:
    """Open the parent run of a sweep, with the values of what varies; see start_tracking."""
    params = {name: ", ".join(values) for name, values in varied.items()}
    return _begin(flow_run.name or "sweep", params, config, runtime)


@effect_task
def start_cell(sweep: str, cell: Cell, runtime: Runtime) -> str:
    """Open the run of a cell within its sweep; its params are numbers wherever they can be."""
    config = cell.config
    params = {
        **_paper_params(config),
        "seed": config.sample.seed,
        "model": config.model.name_or_path,
        **_arithmetic(config, runtime),
        **cell.values,
    }
    run = f"{sweep}/{fingerprint(cell.name)}"
    record(runtime, opening(run, cell.name, params=params, tags=_identity(config)))
    return run


@effect_task
def finish_cell(
    run: str,
    metrics: Mapping[str, float],
    scores: Sequence[Mapping[str, Any]],
    runtime: Runtime,
) -> None:
    """The figures of a cell, and the end of its run."""
    record(runtime, measuring(run, {**metrics, **_score_metrics(scores)}), closing(run))


@effect_task
def track_stage(tracking: str, stage: str, manifests: Sequence[Path], runtime: Runtime) -> None:
    """A child run with the stage's counts per tool and reason."""
    metrics: dict[str, float] = {}
    for manifest in manifests:
        ref = read_manifest(manifest)
        metrics[f"{stage}/{ref.tool}/shards_count"] = len(ref.shards)
        metrics[f"{stage}/{ref.tool}/shards_cached_count"] = ref.num_cached
        for reason, count in total_counts(ref).items():
            metrics[f"{stage}/{ref.tool}/{reason}_count".replace(":", "/")] = count
    child = f"{tracking}/{stage}"
    record(runtime, opening(child, stage), measuring(child, metrics), closing(child))


@effect_task
def track_losses(tracking: str, index: Path, config: PipelineConfig, runtime: Runtime) -> None:
    """On the parent run: the funnel, tau_f, k and the loss quantiles of every tool."""
    from tasks.index.query import funnel, query

    metrics: dict[str, float] = {}
    for tool, counts in funnel(index).items():
        numbers = {name: n for name, n in counts.items() if not isinstance(n, dict)}
        for name, count in {**numbers, **counts["dropped"]}.items():
            metrics[f"filter/{tool}/{name}_count"] = count
        metrics[f"filter/{tool}/tau_f_nats"] = config.of_tool(tool).filtering_threshold
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
    record(runtime, measuring(tracking, metrics))


@effect_task
def track_finetune(tracking: str | None, result: "FinetuneResult", runtime: Runtime) -> None:
    """Complete the child run "finetune": sizes, the chosen step, and what it lacks of the curves.

    It has them where the training was part of this run.
    """
    if tracking is None:
        return
    child = f"{tracking}/finetune"
    sizes = {
        "finetune/train_texts_count": result.num_train,
        "finetune/dev_texts_count": result.num_dev,
        "finetune/chosen_step": result.chosen_step,
    }
    known = Journal.of(runtime.root, child).steps(child)
    curves = [
        measuring(child, {key: value}, step)
        for key, curve in ((_curve_key("finetune", name), c) for name, c in result.curves.items())
        for step, value in curve
        if (key, step) not in known
    ]
    record(runtime, opening(child, "finetune"), measuring(child, sizes), *curves, closing(child))


@effect_task
def track_call_rule(tracking: str, choice: CallChoice, runtime: Runtime) -> None:
    """The rule as params of the run, and a child run with what every rule gives."""
    child = f"{tracking}/call_rule"
    figures: dict[str, float | None] = {
        "call_rule/texts_count": choice.num_texts,
        "call_rule/plain_texts_count": choice.num_plain_texts,
    }
    for count in choice.counts:
        named = {
            "precision": count.precision,
            "recall": count.recall,
            "f1": count.f1,
            "calls_count": count.num_calls,
            "started_count": count.num_started,
            "exact_count": count.num_exact,
            "false_starts_count": count.num_false,
            "false_starts_plain_count": count.num_false_plain,
        }
        rule = f"{count.rule.setting}_{count.rule.value:g}"
        figures |= {f"call_rule/{rule}/{name}": figure for name, figure in named.items()}
    known = {name: figure for name, figure in figures.items() if figure is not None}
    params = _rule_params(choice.rule.applied(DecodeConfig()))
    record(
        runtime,
        opening(tracking, "", params=params),  # it is there, and keeps its name
        opening(child, "call_rule"),
        measuring(child, known),
        closing(child),
    )


@contextmanager
def live_metrics(
    tracking: str | None, stage: str, runtime: Runtime
) -> Iterator[Callable[[int, Mapping[str, float]], None] | None]:
    """What tracks the figures of a step in the stage's child run while the stage goes on."""
    if tracking is None:
        yield None
        return
    live = _LiveChild(f"{tracking}/{stage}", stage, runtime)
    try:
        yield live.report
    except BaseException:
        live.flush(closing(live.run, "FAILED"))
        raise
    live.flush()


class _LiveChild:
    """Collects figures for some seconds, then tells them: a call takes tens of milliseconds."""

    def __init__(self, run: str, stage: str, runtime: Runtime) -> None:
        self.run = run
        self._stage = stage
        self._runtime = runtime
        self._actions: list[Action] = [opening(run, stage)]
        self._flushed = time.monotonic()

    def report(self, step: int, figures: Mapping[str, float]) -> None:
        """Take the figures of a step."""
        keyed = {_curve_key(self._stage, name): value for name, value in figures.items()}
        self._actions.append(measuring(self.run, keyed, step))
        if time.monotonic() - self._flushed >= _LIVE_SECONDS:
            self.flush()

    def flush(self, *last: Action) -> None:
        """Tell what has come together."""
        actions, self._actions = [*self._actions, *last], []
        if actions:
            record(self._runtime, *actions)
        self._flushed = time.monotonic()


@effect_task
def close_tracking(tracking: str, runtime: Runtime) -> None:
    """Close a parent run that has no report."""
    conclude(runtime, tracking, closing(tracking))


@effect_task
def track_scores(tracking: str, scores: Sequence[Mapping[str, Any]], runtime: Runtime) -> None:
    """On the parent run: the figures of every benchmark and arm."""
    record(runtime, measuring(tracking, _score_metrics(scores)))


def _score_metrics(scores: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {
        f"evaluate/{score['benchmark']}/{score['arm']}_{name}": float(figure)
        for score in scores
        for name, figure in score.items()
        if name not in ("benchmark", "arm", "metric") and figure is not None
    }


@effect_task
def finish_tracking(tracking: str, report: Path, runtime: Runtime) -> None:
    """Track a report with the pictures beside it, and the end of the parent run."""
    files = Journal.of(runtime.root, tracking).files
    files.mkdir(parents=True, exist_ok=True)
    shutil.copy(report, files)
    shutil.copytree(report.parent / PICTURES, files / PICTURES, dirs_exist_ok=True)
    conclude(runtime, tracking, uploading(tracking), closing(tracking))


def fail_tracking(runtime: Runtime, flow_run_id: str) -> None:
    """Close what a failed flow run has left open as failed: its run, or its sweep and the cell."""
    journal = Journal.of(runtime.root, flow_run_id)
    try:
        if journal.close_runs("FAILED"):
            conclude(runtime, journal.session)
    except OSError:
        # The flow has failed already and says why; the next run in the folder closes its run.
        journal.leave(is_recorded=False)


def _begin(
    name: str,
    params: Mapping[str, Any],
    config: PipelineConfig,
    runtime: Runtime,
) -> str:
    """The run of this flow run, with its params; before it, what earlier ones have left untold."""
    run = str(flow_run.id or uuid4())
    Journal.of(runtime.root, run).begin(tracking_uri(runtime))
    record(runtime, opening(run, name, params=params, tags=_identity(config)))
    list(settle(runtime.root))
    return run


def _identity(config: PipelineConfig) -> dict[str, str]:
    """Tags of the runs that people look at."""
    return {
        "fingerprint": fingerprint(config),
        "git_commit": git_commit(),
        "prefect_flow_run_id": str(flow_run.id or ""),
    }


def _paper_params(config: PipelineConfig) -> dict[str, Any]:
    """The paper's symbols as params of their own, per tool, so that runs compare by them."""
    symbols: dict[str, Any] = {
        "tau_s": config.sample.sampling_threshold,
        "k_positions": config.sample.max_positions,
        "m": config.sample.samples_per_position,
        "tau_f": config.filter.filtering_threshold,
    }
    by_tool: dict[str, float] = {}
    for tool in config.tools.enabled:
        own = config.of_tool(tool)
        by_tool[f"tau_s.{tool}"] = own.sample.sampling_threshold
        by_tool[f"k_positions.{tool}"] = own.sample.max_positions
        by_tool[f"m.{tool}"] = own.sample.samples_per_position
        by_tool[f"tau_f.{tool}"] = own.filtering_threshold
    decode = config.evaluate.decode
    # What is still open is told when it is chosen: a param is told once.
    return {**symbols, **by_tool, **({} if decode.is_open else _rule_params(decode))}


def _rule_params(decode: DecodeConfig) -> dict[str, Any]:
    """When calls start: the paper's k, and whichever rule it is."""
    if decode.call_threshold is not None:
        return {"k": "none", "call_rule": f"call_threshold={decode.call_threshold:g}"}
    return {"k": decode.top_k, "call_rule": f"call_top_k={decode.top_k}"}


def _arithmetic(config: PipelineConfig, runtime: Runtime) -> dict[str, str]:
    """The dtype taken: the settings may say auto."""
    from toolformer_core.transformers_lm.arithmetic import taken_dtype

    return {"dtype": taken_dtype(config.model.dtype, runtime.device)}


def _params(
    config: PipelineConfig, sections: tuple[str, ...] | None, runtime: Runtime
) -> dict[str, Any]:
    settings = flat_settings(config)
    if sections is None:
        return {**settings, **_arithmetic(config, runtime), **_paper_params(config)}
    chosen = {key: v for key, v in settings.items() if key.partition(".")[0] in sections}
    return {**chosen, **_arithmetic(config, runtime), **_rule_params(config.evaluate.decode)}


def _curve_key(stage: str, name: str) -> str:
    return f"{stage}/{name}_nats" if name.endswith("loss") else f"{stage}/{name}"
