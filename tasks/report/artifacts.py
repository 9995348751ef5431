"""What a run shows: Prefect artifacts and the HTML report."""

import logging
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from tasks.index.build import build_index
from tasks.index.query import examples, funnel
from tasks.output.json_file import write_whole
from tasks.output.manifests import git_commit
from tasks.output.record import record_call_rule, record_links, record_run, record_seconds
from tasks.report.diagnosis import diagnose
from tasks.report.evaluation_figures import evaluation_figures
from tasks.report.evaluation_page import render_evaluation
from tasks.report.figure_style import save_pictures
from tasks.report.page import page_figures, render_page
from tasks.running.policies import effect_task
from tasks.tracking.journal import RUN_TAG, Journal
from toolformer_core.call_rule import CallChoice, with_choice
from toolformer_core.config.pipeline import PipelineConfig
from toolformer_core.config.runtime import Runtime
from toolformer_core.errors import ZeroYieldError
from toolformer_core.fingerprint import fingerprint
from toolformer_core.shards import StageRef, read_manifest, total_counts

INDEX = "calls.duckdb"
PAGE = "report.html"
logger = logging.getLogger(__name__)

_EXAMPLE_COLUMNS = ("call", "loss_reduction", "reason", "text_before", "text_after")


@effect_task
def index_run(manifests: Sequence[Path], config: PipelineConfig, root: Path) -> Path:
    """Build the DuckDB index of all stages so far, and record them in run.json."""
    record_run(config, manifests, root)
    return place_index([read_manifest(manifest) for manifest in manifests], config, root)


def place_index(stages: Sequence[StageRef], config: PipelineConfig, root: Path) -> Path:
    """Build the index of a folder; beside the older one if that cannot be replaced."""
    path, beside = root / INDEX, _beside(root)
    try:
        build_index(stages, config, path)
    except (PermissionError, IsADirectoryError) as error:
        logger.warning("%s cannot be replaced (%s): it is now %s", path, error.strerror, beside)
        build_index(stages, config, beside)
        return beside
    beside.unlink(missing_ok=True)
    return path


def index_of(root: Path) -> Path:
    """Where the newest index of a folder is, or would be."""
    path, beside = root / INDEX, _beside(root)
    if not beside.is_file():
        return path
    is_newest = not path.is_file() or beside.stat().st_mtime > path.stat().st_mtime
    return beside if is_newest else path


def _beside(root: Path) -> Path:
    return root / f"new-{INDEX}"


@effect_task
def report_stage(stage: str, manifests: Sequence[Path]) -> None:
    """One table artifact: the stage's counts by tool and reason, and what the cache had of it."""
    rows: list[dict[str, str | int]] = []
    refs = [read_manifest(manifest) for manifest in manifests]
    for ref in refs:
        counts = sorted(total_counts(ref).items())
        rows += [{"tool": ref.tool, "reason": name, "count": count} for name, count in counts]
    num_shards, num_cached = (
        sum(len(ref.shards) for ref in refs),
        sum(ref.num_cached for ref in refs),
    )
    create_table_artifact(
        table=rows,
        key=f"{stage}-counts",
        # Only a shard that is computed has a task run.
        description=f"Counts of {stage}: {num_shards} shards, {num_cached} from the cache",
    )


@effect_task
def report_calls(index: Path) -> None:
    """The funnel, and five kept and five dropped calls per tool, as table artifacts."""
    counts = funnel(index)
    rows = [
        {"tool": tool, **{k: str(v) if isinstance(v, dict) else v for k, v in row.items()}}
        for tool, row in counts.items()
    ]
    create_table_artifact(table=rows, key="funnel", description="Candidate calls, stage by stage")
    for view in ("kept_examples", "dropped_examples"):
        table = [
            {name: str(row[name]) for name in _EXAMPLE_COLUMNS if name in row}
            for tool in counts
            for row in examples(index, view, tool, 5)
        ]
        create_table_artifact(table=table, key=view.replace("_", "-"))


@effect_task
def report_calibration(report: Mapping[str, Any]) -> None:  # Any: nested figures
    """The recommended settings as a table artifact."""
    rows = [
        {key: str(value) if isinstance(value, dict) else value for key, value in tool.items()}
        for tool in report["tools"]
    ]
    create_table_artifact(table=rows, key="calibration", description="Recommended settings")


@effect_task
def require_yield(index: Path) -> int:
    """How many calls were kept.

    Raises: ZeroYieldError with the diagnosis if there is none.
    """
    kept = sum(row["kept"] for row in funnel(index).values())
    if kept == 0:
        raise ZeroYieldError("no call was kept; nothing to fine-tune on\n" + diagnose(index))
    return int(kept)


@effect_task
def describe_run(config: PipelineConfig, runtime: Runtime, tracking: str) -> dict[str, str]:
    """Facts that identify the run, for the report."""
    from toolformer_core.transformers_lm.arithmetic import taken_dtype

    recorded = Journal.of(runtime.root, tracking).state().ids.get(tracking)
    packages = ("torch", "transformers", "prefect", "mlflow", "duckdb")
    return {
        "arithmetic": taken_dtype(config.model.dtype, runtime.device),
        "MLflow run": recorded or f"the one with the tag {RUN_TAG} = {tracking}",
        "fingerprint": fingerprint(config),
        "git commit": git_commit(),
        "output folder": str(runtime.root),
        "versions": f"python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in packages),
    }


@effect_task
def write_report(
    index: Path,
    config: PipelineConfig,
    scores: Sequence[Mapping[str, Any]],
    links: Mapping[str, str],
    root: Path,
    choice: CallChoice | None = None,
) -> Path:
    """The self-contained HTML report; with a choice it shows when calls start."""
    path = root / PAGE
    drawn = page_figures(index, choice)
    save_pictures(drawn, root)
    write_whole(path, render_page(index, config, scores, links, choice, drawn))
    if choice is not None:
        record_call_rule(choice, root)
    create_link_artifact(link=path.absolute().as_uri(), key="report", link_text="HTML report")
    if scores:
        create_table_artifact(table=[dict(score) for score in scores], key="evaluation")
    facts = "\n".join(f"- {name}: {value}" for name, value in links.items())
    create_markdown_artifact(markdown=f"# Run\n{facts}\n", key="run")
    record_links(links, root)
    record_seconds(root)
    return path


@effect_task
def write_evaluation(
    index: Path,
    config: PipelineConfig,
    scores: Sequence[Mapping[str, Any]],
    links: Mapping[str, str],
    root: Path,
    choice: CallChoice | None = None,
) -> Path:
    """The self-contained HTML report of an evaluation alone."""
    path = root / PAGE
    drawn = evaluation_figures(index)
    save_pictures(drawn, root)
    write_whole(path, render_evaluation(index, with_choice(config, choice), scores, links, drawn))
    if choice is not None:
        record_call_rule(choice, root)
    create_link_artifact(link=path.absolute().as_uri(), key="report", link_text="HTML report")
    create_table_artifact(table=[dict(score) for score in scores], key="evaluation")
    record_links(links, root)
    return path
