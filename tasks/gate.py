"""The gate between a newly tuned model and the champion: the decision, shown to people."""

from collections.abc import Sequence
from pathlib import Path

from prefect.artifacts import create_markdown_artifact
from prefect.logging import get_run_logger

from tasks.output.manifests import load_stage
from tasks.running.policies import effect_task
from toolformer_core.evaluation.gate import GateConfig, GateDecision, decide
from toolformer_core.records import EvaluatedItem
from toolformer_core.shards import read_shard


@effect_task
def decide_gate(
    candidate: Sequence[Path], champion: Sequence[Path], config: GateConfig, seed: int
) -> GateDecision:
    """The decision on the answered items behind the manifests of both, as an artifact and a line.

    Raises: DataError if they did not answer the same items.
    """
    decision = decide(_items(candidate), _items(champion), config, seed)
    verdict = "passed" if decision.passed else "not passed"
    get_run_logger().info("gate %s: %s", verdict, decision.reason)
    rows = "\n".join(f"| {name} | {value:.6g} |" for name, value in decision.figures.items())
    table = f"\n\n| figure | value |\n| --- | --- |\n{rows}" if rows else ""
    create_markdown_artifact(markdown=f"# Gate {verdict}\n\n{decision.reason}{table}\n", key="gate")
    return decision


def _items(manifests: Sequence[Path]) -> list[EvaluatedItem]:
    shards = [shard for manifest in manifests for shard in load_stage(manifest).shards]
    return [item for shard in shards for item in read_shard(shard, EvaluatedItem)]
