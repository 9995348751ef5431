"""Golden digests: what each stage makes of one fixed small input, at its present STAGE_VERSION.

A digest here changes only together with the STAGE_VERSION beside it: caches of older runs are
keyed by the version, and would otherwise serve what the code no longer makes. The model is the
scripted one, so that no digest depends on a machine's arithmetic.
"""

import importlib
from dataclasses import dataclass

import pytest

from tests.support.builders import document
from tests.support.scripted_lm import ScriptedLM
from toolformer_core.augment import augment_documents, example_cutoffs
from toolformer_core.calling.caller import ToolCaller
from toolformer_core.config.pipeline import AugmentConfig, ExecuteConfig, SampleConfig, ScoreConfig
from toolformer_core.execute import execute_calls
from toolformer_core.filter import filter_calls, score_calls
from toolformer_core.sample import sample_calls
from toolformer_core.shards import content_digest
from toolformer_core.tools.calculator import Calculator

TEXTS = (
    "She bought 1 apple and 2 pears, 3 pieces of fruit in all.",
    "Each of the 3 mills has 4 wheels; the 12 wheels were built in 1922.",
    "At 10 dollars for 4 boxes a box costs 2.50, [so] 5 boxes cost more.",
)

GOLDEN = {
    "sample": (3, "6de162a4e26cdcc2"),
    "execute": (3, "2ff07e9db2ff0fec"),
    "score": (3, "742e7cc1b57848bb"),
    "filter": (3, "e1fbc37491ad5de1"),
    "augment": (1, "c8be1ae78068951a"),
}
"""Stage -> (STAGE_VERSION, digest of its records)."""


@dataclass(frozen=True)
class Plainly:
    """The calculator under a version of its own, so that its version does not count here."""

    tool: Calculator
    version: str = "golden"

    def __getattr__(self, name):
        return getattr(self.tool, name)


@pytest.fixture(scope="module")
def made():
    """The records of every stage, each from those of the stage before."""
    lm, tool = ScriptedLM(), Plainly(Calculator())
    documents = [
        document(document_id=f"document-{n}", text=TEXTS[n % 3] + " More of it." * n)
        for n in range(12)
    ]
    by_id = {d.document_id: d for d in documents}
    sampling = SampleConfig(sampling_threshold=0.0, max_positions=6, samples_per_position=4)
    proposed, _ = sample_calls(documents, lm, tool, sampling, num_scored_tokens=5)
    executed = execute_calls(proposed, by_id, ToolCaller(tool, ExecuteConfig()))
    scored = score_calls(executed, by_id, lm, tool, ScoreConfig())
    decisions = filter_calls(scored, 0.05)
    config = AugmentConfig(max_calls_per_document=2)
    augmented = augment_documents(documents, decisions, example_cutoffs(decisions, config), config)
    return {
        "sample": proposed,
        "execute": executed,
        "score": scored,
        "filter": decisions,
        "augment": augmented,
    }


@pytest.mark.parametrize("stage", GOLDEN)
def test_stage_version_is_bumped_when_its_records_change(made, stage):
    assert made[stage], "the input is too small to tell anything"
    core = importlib.import_module(f"toolformer_core.{'filter' if stage == 'score' else stage}")
    found = core.STAGE_VERSION, content_digest(made[stage])
    assert found == GOLDEN[stage], (
        f"{stage} makes other records than before: bump its STAGE_VERSION (if the change is meant) "
        f"and write {found} here"
    )


def test_golden_input_reaches_kept_and_dropped_calls(made):
    assert {d.kept for d in made["filter"]} == {True, False}
    assert len({call.drop_reason for call in made["sample"]}) >= 3
