"""The diagnosis of a run: where calls were lost, and what to change."""

import math
from pathlib import Path

import pytest

from tasks.index import build
from tasks.report.diagnosis import diagnose
from tests.support.builders import (
    CallStory,
    document,
    pipeline_config,
    write_annotation,
    write_stage,
)
from toolformer_core.config.pipeline import PipelineConfig
from toolformer_core.records import DropReason, Outcome

CONFIG = pipeline_config("tools.enabled=[Calculator, Calendar]")


def built(root: Path, stories: list[CallStory], *, config: PipelineConfig = CONFIG) -> Path:
    path = root / "index.duckdb"
    build.build_index(write_annotation(root / "shards", [document()], stories), config, path)
    return path


def test_diagnose_all_below_threshold_names_the_largest_reduction(tmp_path: Path) -> None:
    stories = [
        CallStory(candidate_id=f"call-{n}", losses=(1.0 + n / 10, 9.0, 1.0)) for n in range(1, 5)
    ]
    config = pipeline_config("sample.prune_below=0.5")
    report = diagnose(built(tmp_path, stories, config=config))

    assert "Calculator: 0 of 4 calls kept (1 documents, 1 positions)." in report
    assert "Most were lost in filter, as below_threshold: 4 of 4." in report
    assert report.count("\n  - ...") == 3
    assert "The largest loss_reduction among them is 0.400." in report
    assert "filter.filtering_threshold (now 1.0) and sample.prune_below (now 0.5)" in report


def test_diagnose_only_bounds_known_says_what_they_are(tmp_path: Path) -> None:
    pruned = [CallStory(candidate_id=f"call-{n}", losses=(1.0 + n / 10, None, 1.0)) for n in (1, 2)]
    report = diagnose(built(tmp_path, pruned))

    assert "None of them reaches more than 0.200." in report
    assert "lower filter.filtering_threshold (now 1.0) below that" in report


def test_diagnose_no_call_helped_does_not_advise_a_lower_threshold(tmp_path: Path) -> None:
    worse = CallStory(candidate_id="worse", losses=(1.0, 1.0, 2.0))
    report = diagnose(built(tmp_path, [worse]))

    assert "No call lowered the loss." in report
    assert "filtering_threshold" not in report


@pytest.mark.parametrize(
    ("story", "cure"),
    [
        (CallStory(candidate_id="a", dropped=DropReason.NOT_CLOSED), "sample.max_call_tokens"),
        (
            CallStory(candidate_id="a", outcome=Outcome.REJECTED, outcome_reason="no\nnumber"),
            "The tool said: no number (1).",
        ),
        (CallStory(candidate_id="a", outcome=Outcome.TIMED_OUT), "execute.timeout_seconds"),
        (CallStory(candidate_id="a", losses=(math.nan, 1.0, 1.0)), "model.dtype to float32"),
        (CallStory(candidate_id="a"), "Nothing was lost."),
    ],
)
def test_diagnose_reason_of_most_drops_gives_its_cure(
    tmp_path: Path, story: CallStory, cure: str
) -> None:
    assert cure in diagnose(built(tmp_path, [story]))


@pytest.mark.parametrize(
    ("counts", "cure"),
    [
        ({}, "No document was sampled."),
        ({"documents": 3, "documents_without_place": 1}, "sample.sampling_threshold (now 0.25)"),
        ({"documents": 3, "documents_without_place": 3}, "look_ahead_guard off"),
        (
            {"documents": 3, "documents_not_qualified": 3},
            "set sample.document_heuristic to none.",
        ),
        ({"documents": 3, "positions_pruned": 8}, "lower sample.prune_below (now 0.5)"),
    ],
)
def test_diagnose_no_position_finds_why(tmp_path: Path, counts: dict[str, int], cure: str) -> None:
    config = pipeline_config(
        "tools.enabled=[Calendar]",
        "sample.sampling_threshold={Calendar: 0.25, default: 0.05}",
        "sample.prune_below=0.5",
    )
    path = tmp_path / "index.duckdb"

    build.build_index([write_stage(tmp_path, "sample", "Calendar", [], counts)], config, path)

    assert cure in diagnose(path)
