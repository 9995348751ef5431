"""The plan against figures worked out by hand."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli.main import app
from tasks.filter import filter_shard
from tasks.output.record import read_run, record_run, record_seconds
from tasks.running.policies import Location
from tests.support.builders import CallStory, document, pipeline_config, write_annotation
from toolformer_core.config.runtime import Runtime
from toolformer_core.errors import ConfigError
from toolformer_core.planning.costs import (
    TASK_SECONDS,
    Measured,
    ToolCost,
    load_calibration,
    load_device,
    of_device,
    of_run,
)
from toolformer_core.planning.plan import Question, plan
from toolformer_core.shards import StageRef, write_manifest
from toolformer_core.transformers_lm.arithmetic import taken_dtype

CONFIG = pipeline_config("tools.enabled=[Calculator, Calendar]")


def tool(name: str, **changes: Any) -> ToolCost:
    """Two seconds of the model, a tenth of the tool, three calls and 500 bytes a document."""
    cost = ToolCost(
        tool=name, model_seconds=2.0, tool_seconds=0.1, calls=3.0, kept=0.5, num_bytes=500.0
    )
    return dataclasses.replace(cost, **changes)


def device(seconds: float = 1.0) -> dict[str, Any]:
    """A device that takes so long for a document with Calculator, and does 100 of all else."""
    per_document = {"reading": seconds / 2, "sampling": seconds / 4, "scoring": seconds / 4}
    own = {f"seconds_{part}_per_document": value for part, value in per_document.items()}
    own |= {"seconds_calling_per_document": 0.5, "calls_per_document": 2.0, "documents": 10}
    own |= {"kept_per_document": 0.25, "bytes_per_document": 100.0}
    return {
        "num_parameters": 1e8,
        "annotate": {"Calculator": own},
        "read": {"tokens_per_document": 50.0, "per_second": 100.0},
        "finetune": {"per_second": 100.0},
        "evaluate": {"disabled": {"per_second": 100.0}, "on": {"per_second": 50.0}},
    }


def question(num_documents: int = 1000, **changes: Any) -> Question:
    asked = Question(
        num_documents=num_documents,
        config=CONFIG,
        measured_on=device(),
        device=None,
        num_parameters=None,
        days=7.0,
    )
    return dataclasses.replace(asked, **changes)


MEASURED = Measured(
    source="here",
    num_documents=100,
    tools=(tool("Calculator"), tool("Calendar", model_seconds=1.0)),
    rest_seconds=0.5,
    fixed_seconds=30.0,
    documents_per_shard=100,
)


def test_plan_same_device_sums_what_documents_and_tasks_cost() -> None:
    found = plan(MEASURED, question())

    # Ten shards; for each, four tasks of two tools and one for C*.
    assert (found["recommended"]["shards"], found["recommended"]["tasks"]) == (10, 90)
    assert found["annotate"]["device_hours"] == pytest.approx(3000 / 3600)
    assert found["annotate"]["wall_seconds"] == pytest.approx(
        30 + 1000 * (2 + 1 + 0.1 + 0.1 + 0.5) + 90 * TASK_SECONDS
    )
    assert found["annotate"]["tool_calls"] == 6000
    assert found["annotate"]["by_tool"]["Calendar"]["kept"] == 500


def test_plan_faster_device_and_larger_model_scale_the_model_alone() -> None:
    faster = plan(MEASURED, question(device=device(seconds=0.25)))
    larger = plan(MEASURED, question(num_parameters=3e8))

    assert faster["annotate"]["device_hours"] == pytest.approx(3000 / 4 / 3600)
    assert larger["annotate"]["device_hours"] == pytest.approx(3 * 3000 / 3600)
    assert faster["annotate"]["tool_hours"] == larger["annotate"]["tool_hours"]
    # The slowest tool takes half a second a document, and 300 seconds are aimed at.
    assert faster["recommended"]["documents_per_shard"] == 600


def test_plan_fewer_days_take_more_workers_and_less_time() -> None:
    # 3700 seconds of documents and 22.5 of tasks: an hour, with a little left over.
    alone, together = (plan(MEASURED, question(days=days)) for days in (1.0, 1 / 24))

    assert (alone["recommended"]["workers"], together["recommended"]["workers"]) == (1, 2)
    assert together["annotate"]["wall_seconds"] - 30 == pytest.approx(
        (alone["annotate"]["wall_seconds"] - 30) / 2
    )


def test_plan_training_and_evaluation_come_from_the_device() -> None:
    config = pipeline_config(
        "tools.enabled=[Calculator]",
        "finetune.num_steps=10",
        "finetune.batch_size=4",
        "evaluate.benchmarks=[dateset]",
        "evaluate.limit=60",
        "evaluate.arms=[base, on]",
    )

    found = plan(MEASURED, question(config=config))

    assert found["finetune"]["device_hours"] * 3600 == pytest.approx(10 * 4 * 50 / 100)
    assert found["evaluate"]["device_hours"] * 3600 == pytest.approx(60 / 100 + 60 / 50)


def test_plan_unknown_calls_stay_unknown_and_unknown_tools_are_refused() -> None:
    unknown = dataclasses.replace(MEASURED, tools=(tool("Calculator", calls=None),))
    assert plan(unknown, question())["annotate"]["tool_calls"] is None

    with pytest.raises(ConfigError, match="none of the tools Calculator, Calendar; it has MT"):
        plan(dataclasses.replace(MEASURED, tools=(tool("MT"),)), question())


def timed_run(root: Path) -> list[StageRef]:
    """A run of two documents with four calls; each shard of the model took 8 seconds."""
    stories = [CallStory(candidate_id=name) for name in ("a", "b", "c", "d")]
    stages = write_annotation(root, [document(), document(text="Another text.")], stories)
    seconds = {"sample": 8.0, "score": 8.0, "execute": 1.0, "filter": 0.5}
    return [
        dataclasses.replace(
            stage,
            shards=tuple(
                dataclasses.replace(shard, seconds=seconds.get(stage.stage, 0.0))
                for shard in stage.shards
            ),
        )
        for stage in stages
    ]


def test_of_run_seconds_and_calls_are_those_of_a_document(tmp_path: Path) -> None:
    stages = timed_run(tmp_path)
    num_shards = len(stages[1].shards)

    measured = of_run(stages, None, tmp_path)

    (calculator,) = measured.tools
    assert calculator.model_seconds == num_shards * 16.0 / 2
    assert calculator.tool_seconds == num_shards * 1.0 / 2
    assert calculator.calls == 2.0
    assert measured.rest_seconds == num_shards * 0.5 / 2
    assert calculator.num_bytes > 0
    assert measured.fixed_seconds == 0.0


def test_of_run_planned_for_as_many_documents_gives_its_own_size_and_time(tmp_path: Path) -> None:
    stages = timed_run(tmp_path)
    files = sum(path.stat().st_size for path in tmp_path.rglob("*.parquet"))
    (tmp_path / "calls.duckdb").write_bytes(bytes(2_500_000))
    (tmp_path / "report.html").write_bytes(bytes(500_000))
    asked = question(2, config=pipeline_config("tools.enabled=[Calculator]"))

    found = plan(of_run(stages, 100.0, tmp_path), asked)

    assert found["annotate"]["wall_seconds"] == pytest.approx(100.0, abs=2.0)
    assert found["disk_bytes"] == pytest.approx(files + 3_000_000, rel=0.005)


def test_of_run_cached_shards_took_no_time_of_this_run(tmp_path: Path) -> None:
    stages = timed_run(tmp_path)
    cached = [dataclasses.replace(ref, num_cached=len(ref.shards)) for ref in stages]
    num_tasks = sum(len(ref.shards) for ref in stages if ref.stage != "corpus")

    measured = of_run(cached, 60.0, tmp_path)

    assert measured.fixed_seconds == pytest.approx(60.0 - TASK_SECONDS * num_tasks)


def test_of_run_untimed_or_empty_is_refused(tmp_path: Path) -> None:
    stages = write_annotation(tmp_path, [document()], [CallStory(candidate_id="a")])

    with pytest.raises(ConfigError, match="not timed"):
        of_run(stages, 10.0, tmp_path)
    with pytest.raises(ConfigError, match="no documents"):
        of_run([], 10.0, tmp_path)


def test_of_device_its_own_figures_are_the_costs() -> None:
    measured = of_device("mine", device())

    (calculator,) = measured.tools
    assert (calculator.model_seconds, calculator.calls) == (1.0, 2.0)
    assert measured.num_documents == 10


@pytest.mark.parametrize("name", ["cpu2", "cpu2-float32", "h200"])
def test_load_device_every_known_one_can_be_planned_with(name: str) -> None:
    figures = load_device(name)
    measured = of_device(name, figures)

    found = plan(measured, question(measured_on=figures))

    assert found["annotate"]["device_hours"] > 0


def test_load_device_unknown_or_broken_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"known: .*cpu2"):
        load_device("abacus")
    path = tmp_path / "mine.json"
    path.write_text("{}")
    with pytest.raises(ConfigError, match="no figures of annotate"):
        load_device(str(path))
    path.write_text("{")
    with pytest.raises(ConfigError, match="not JSON"):
        load_device(str(path))


def test_load_calibration_tools_that_were_not_calibrated_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    predicted = {"kept": 0.5, "seconds": 2.0, "num_bytes": 300.0}
    tools = [{"tool": "Calculator", "predicted": predicted}, {"tool": "MT", "num_calls": 0}]
    path.write_text(json.dumps({"tools": tools, "sample_documents": 40}))

    (calculator,) = load_calibration(path).tools

    assert (calculator.tool, calculator.model_seconds, calculator.calls) == (
        "Calculator",
        2.0,
        None,
    )
    path.write_text(json.dumps({"tools": tools[1:], "sample_documents": 40}))
    with pytest.raises(ConfigError, match="no tool was calibrated"):
        load_calibration(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_calibration(tmp_path / "nowhere.json")


def test_shard_task_notes_how_long_it_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scored = timed_run(tmp_path)[3].shards[0]
    clock = SimpleNamespace(monotonic=iter((10.0, 12.5)).__next__)
    monkeypatch.setattr("tasks.running.policies.time", clock)

    decided = filter_shard.fn(
        scored, "Calculator", 1.0, Location(folder=str(tmp_path / "decided"), runtime=Runtime())
    )

    assert decided.seconds == 2.5


def test_record_seconds_is_added_to_the_run(tmp_path: Path) -> None:
    record_run(CONFIG, [], tmp_path)
    assert read_run(tmp_path).seconds is None

    record_seconds(tmp_path)

    assert (read_run(tmp_path).seconds or 0.0) > 0.0


def test_plan_command_finished_run_gives_figures(tmp_path: Path) -> None:
    manifests = [write_manifest(stage, tmp_path, {}) for stage in timed_run(tmp_path)]
    record_run(CONFIG, manifests, tmp_path)
    command = ["plan", "--documents", "1e3", "--from", str(tmp_path)]

    as_json = CliRunner().invoke(app, [*command, "--json"])
    as_text = CliRunner().invoke(app, command)

    assert json.loads(as_json.stdout)["annotate"]["tool_calls"] == 2000
    assert "2,000 calls" in as_text.output


@pytest.mark.parametrize(
    ("dtype", "cores"), [("bfloat16", "cpu2"), ("float32", "cpu2-float32"), ("auto", None)]
)
def test_plan_command_takes_the_cores_with_the_arithmetic_of_here(
    dtype: str, cores: str | None
) -> None:
    command = ["plan", "--documents", "1e3", "--set", f"model.dtype={dtype}", "--json"]

    measured = json.loads(CliRunner().invoke(app, command).stdout)["measured"]

    expected = cores or {"bfloat16": "cpu2", "float32": "cpu2-float32"}[taken_dtype("auto", "cpu")]
    assert measured["from"] == f"the demo's texts on {expected}"


def test_plan_command_two_sources_are_refused(tmp_path: Path) -> None:
    sources = ["--from", str(tmp_path), "--calibration", str(tmp_path)]

    result = CliRunner().invoke(app, ["plan", "--documents", "10", *sources])

    assert isinstance(result.exception, ConfigError)
