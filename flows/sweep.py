"""Sweep: many settings of one run, each a cell, which share what they have in common.

A cell goes through the stages of the whole DAG (sweep_work.py). Where only counts are wanted, they
are taken from the stored losses, and no model is trained (paper, Table 2).
"""

import time
from dataclasses import replace
from typing import Any

from prefect import flow

from flows._hooks import close_failed
from flows._stage import Annotated
from flows.evaluate import Contestants
from flows.sweep_work import SweepWork
from tasks.evaluate import score_shards
from tasks.output.manifests import load_stage
from tasks.report.artifacts import describe_run
from tasks.sweep import CellResult, training_figures, write_summary, write_sweep
from tasks.tracking.runs import finish_cell, finish_tracking, start_cell, start_sweep
from toolformer_core.call_rule import with_choice
from toolformer_core.config.pipeline import PipelineConfig
from toolformer_core.config.runtime import Runtime
from toolformer_core.config.variations import Cell, Variation, cells, needs_training, sweep_name


@flow(
    name="sweep",
    flow_run_name="sweep-{runtime.root.name}",
    on_failure=[close_failed],
    on_crashed=[close_failed],
)
def sweep(
    config: PipelineConfig, variations: list[Variation], runtime: Runtime
) -> dict[str, Any]:  # Any: nested figures
    """Counts and scores of every combination of what varies, and what of the work was shared.

    The stages are those of the folder; the sweep's own files lie in ROOT/sweeps/NAME.
    """
    started = time.monotonic()
    grid, trains = cells(config, variations), needs_training(variations)
    tracking = start_sweep(config, {v.name: list(v.values) for v in variations}, runtime)
    work = SweepWork(runtime)
    results = [_run_cell(cell, work, tracking, trains=trains) for cell in grid]
    folder = runtime.root / "sweeps" / sweep_name(grid, trains=trains)
    links = describe_run(config, runtime, tracking)
    _, page = write_sweep(results, variations, config, links, folder)
    finish_tracking(tracking, page, runtime)
    seconds = time.monotonic() - started
    return write_summary(results, work.tallies(), seconds, folder, work.folders)


def _run_cell(cell: Cell, work: SweepWork, sweep_run: str, *, trains: bool) -> CellResult:
    """What came of a cell, tracked as a run within the sweep's."""
    run = start_cell(sweep_run, cell, work.runtime)
    annotated = work.annotate(cell.config)
    result = CellResult(
        cell=cell,
        num_parameters=work.size(annotated.model),
        counts=work.count(annotated, cell.config),
    )
    if trains and result.num_kept:
        result = _trained(result, annotated, work, run)
    elif trains:
        result = replace(result, reason="no call was kept")
    finish_cell(run, result.metrics(), result.scores, work.runtime)
    return result


def _trained(counted: CellResult, annotated: Annotated, work: SweepWork, run: str) -> CellResult:
    """With the model that is tuned on the cell's calls, and its evaluation."""
    config = counted.cell.config
    augmented = work.augment(annotated, config)
    tuned = work.finetune(annotated, augmented, config.finetune, run)
    choice = work.choose_calls(annotated, augmented, tuned.model, config, run)
    config = with_choice(config, choice)
    models = Contestants(
        base=annotated.model,
        tuned=tuned.model,
        control=work.control(annotated, augmented, config),
    )
    manifests = work.evaluate(models, annotated.tools, config)
    answered = [shard for manifest in manifests for shard in load_stage(manifest).shards]
    return replace(
        counted,
        cell=replace(counted.cell, config=config),
        training=training_figures(tuned),
        answered=tuple(answered),
        scores=tuple(score_shards(answered, config.evaluate)),
    )
