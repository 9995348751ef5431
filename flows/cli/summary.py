"""What a finished run reports."""

from pathlib import Path
from typing import Any

from tasks.evaluate import score_shards
from tasks.index.query import funnel
from tasks.output.record import read_run
from tasks.report.artifacts import PAGE, index_of
from tasks.report.diagnosis import diagnose
from toolformer_core.call_rule import CHOICE
from toolformer_core.shards import read_manifest


def run_summary(root: Path) -> dict[str, Any]:  # Any: nested figures
    """What a finished run reports: funnel, evaluation, call rule, cached shards, places."""
    index = index_of(root)
    run = read_run(root)
    stages = [read_manifest(path) for path in run.manifests]
    answered = [shard for stage in stages if stage.stage == "evaluate" for shard in stage.shards]
    model, choice = root / "model", run.choice
    return {
        "funnel": funnel(index),
        "evaluation": score_shards.fn(answered, run.config.evaluate),
        "shards": sum(len(stage.shards) for stage in stages),
        "shards_cached": sum(stage.num_cached for stage in stages),
        "report": str(root / PAGE),
        "index": str(index),
        "model": str(model) if model.exists() else None,
        "call_rule": None if choice is None else CHOICE.dump_python(choice, mode="json"),
        "diagnosis": diagnose(index),
    }
