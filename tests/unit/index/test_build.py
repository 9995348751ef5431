"""The index against plain Python over the same stories."""

import contextlib
import dataclasses
import math
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path

import duckdb
import pytest

from tasks.index import build, query
from tests.support.builders import (
    CallStory,
    augmented_document,
    document,
    evaluated_item,
    pipeline_config,
    quarantined_row,
    write_annotation,
    write_stage,
)
from toolformer_core.config.pipeline import PipelineConfig
from toolformer_core.errors import ConfigError, ShardIntegrityError
from toolformer_core.notation import render_call, render_call_with_result
from toolformer_core.records import DropReason, Outcome
from toolformer_core.shards import StageRef, read_shard

THRESHOLDS = (0.1, 0.5, 1.0, 2.0)
CONFIG = pipeline_config(
    "tools.enabled=[Calculator, Calendar]",
    "filter.filtering_threshold={Calculator: 1.0, default: 0.75}",
    f"filter.threshold_sweep={list(THRESHOLDS)}",
)


def one_of_each() -> list[CallStory]:
    """One Calculator call for every end a call can come to; two are kept."""
    low, nan = (2.0, 2.5, 1.75), (math.nan, 2.0, 1.0)
    return [
        CallStory(candidate_id="kept-right", is_right=True),
        CallStory(candidate_id="kept-unknown", losses=(4.0, 4.0, 1.0)),
        CallStory(candidate_id="below", losses=low, is_right=False),
        CallStory(candidate_id="not-finite", losses=nan, is_right=True),
        CallStory(candidate_id="open", dropped=DropReason.NOT_CLOSED, argument="34 + 57 is"),
        CallStory(candidate_id="malformed", dropped=DropReason.MALFORMED),
        CallStory(candidate_id="duplicate", dropped=DropReason.DUPLICATE),
        CallStory(candidate_id="ahead", dropped=DropReason.LOOK_AHEAD),
        CallStory(
            candidate_id="rejected", outcome=Outcome.REJECTED, outcome_reason="not a number: x"
        ),
        CallStory(candidate_id="failed", outcome=Outcome.FAILED),
        CallStory(candidate_id="late", outcome=Outcome.TIMED_OUT, latency_seconds=10.0),
        CallStory(candidate_id="empty", outcome=Outcome.EMPTY),
        CallStory(candidate_id="wrong-as-good", controls=(1.0, None)),
        CallStory(candidate_id="shuffled-as-good", controls=(1.5, 0.75), is_right=True),
    ]


def built(root: Path, stories: list[CallStory], *, config: PipelineConfig = CONFIG) -> Path:
    path = root / "index.duckdb"
    build.build_index(write_annotation(root / "shards", [document()], stories), config, path)
    return path


def test_funnel_one_call_of_each_fate_counts_by_hand(tmp_path: Path) -> None:
    path = built(tmp_path, one_of_each())

    assert query.funnel(path)["Calculator"] == {
        "documents": 1,
        "positions": 1,
        "calls": 14,
        "parsed": 12,
        "executed": 6,
        "scored": 6,
        "kept": 2,
        "dropped": {reason.value: 1 for reason in DropReason},
        "checkable": 1,
        "right": 1,
        "documents_by_rule": {},
    }


def test_funnel_tool_without_calls_is_listed_in_config_order_with_zeros(tmp_path: Path) -> None:
    path = built(tmp_path, [CallStory(candidate_id="only", tool="Calendar")])

    funnel = query.funnel(path)

    assert list(funnel) == ["Calculator", "Calendar"]
    assert funnel["Calculator"]["dropped"] == {}
    counts = {k: v for k, v in funnel["Calculator"].items() if not isinstance(v, dict)}
    assert set(counts.values()) == {0}


def test_funnel_unfinished_run_counts_calls_as_undecided(tmp_path: Path) -> None:
    stages = write_annotation(tmp_path / "shards", [document()], one_of_each())
    unfinished = [stage for stage in stages if stage.stage != "filter"]
    path = tmp_path / "index.duckdb"

    build.build_index(unfinished, CONFIG, path)

    counts = query.funnel(path)["Calculator"]
    assert counts["kept"] == 0
    assert counts["dropped"]["undecided"] == 6
    assert counts["calls"] == sum(counts["dropped"].values()) == 14


def test_candidates_loss_that_was_not_measured_leaves_a_bound_alone(tmp_path: Path) -> None:
    stories = [
        CallStory(candidate_id="pruned", losses=(1.5, None, 1.0)),
        CallStory(candidate_id="measured", losses=(1.5, 1.25, 1.0)),
    ]
    path = built(tmp_path, stories)

    rows = query.select(path, "SELECT * FROM candidates ORDER BY candidate_id DESC")
    assert [row["loss_reduction"] for row in rows] == [None, 0.25]
    assert [row["loss_reduction_at_most"] for row in rows] == [0.5, 0.25]
    assert query.funnel(path)["Calculator"]["scored"] == 2
    sweep = query.select(path, "SELECT kept FROM threshold_sweep WHERE tool = 'Calculator'")
    assert [row["kept"] for row in sweep] == [1, 0, 0, 0]


def test_threshold_sweep_random_losses_equals_plain_loop(tmp_path: Path) -> None:
    draw = random.Random(5)
    stories = [
        CallStory(
            candidate_id=f"call-{n}",
            tool=draw.choice(["Calculator", "Calendar"]),
            losses=(draw.choice([0.5, 1.0, 2.0, 3.0, math.nan, math.inf]), 9.0, draw.random()),
            is_right=draw.choice([True, False, None]),
        )
        for n in range(300)
    ] + [CallStory(candidate_id="exactly", losses=(3.0, 3.0, 2.0), is_right=True)]
    path = built(tmp_path, stories)

    expected = []
    for tool, in_force in (("Calculator", 1.0), ("Calendar", 0.75)):
        for threshold in sorted({*THRESHOLDS, in_force}):
            kept = [
                story
                for story in stories
                if story.tool == tool and story.is_finite and story.loss_reduction >= threshold
            ]
            checkable = [story for story in kept if story.is_right is not None]
            right = [story for story in kept if story.is_right]
            row = (tool, threshold, len(kept), len(checkable), len(right), threshold == in_force)
            expected.append(row)

    assert query.query(path, "SELECT * FROM threshold_sweep")[1] == expected


def test_examples_kept_come_best_first_and_at_most_ten(tmp_path: Path) -> None:
    stories = [
        CallStory(candidate_id=f"call-{n:02d}", losses=(n / 4, 9.0, 0.0)) for n in range(4, 24)
    ]
    path = built(tmp_path, stories)

    rows = query.examples(path, "kept_examples", "Calculator", 10)

    assert [row["candidate_id"] for row in rows] == [f"call-{n}" for n in range(23, 13, -1)]
    assert len(query.examples(path, "kept_examples", "Calculator", 3)) == 3


def test_examples_dropped_take_the_reasons_in_turn(tmp_path: Path) -> None:
    below = [
        CallStory(candidate_id=f"below-{n:02d}", losses=(n / 100, 9.0, 0.0)) for n in range(50)
    ]
    path = built(tmp_path, [*below, *one_of_each()])

    rows = query.examples(path, "dropped_examples", "Calculator")

    assert len({row["reason"] for row in rows}) == len(rows) == 10
    assert rows[0]["candidate_id"] == "below-49"


def test_examples_context_counts_characters_not_bytes(tmp_path: Path) -> None:
    before, after = "e\u0301\U0001f34e" * 100 + "X", "Y" + "\u00fc" * 200
    text = document(text=before + after)
    story = CallStory(candidate_id="kept", char_offset=len(before))
    path = tmp_path / "index.duckdb"
    build.build_index(write_annotation(tmp_path / "shards", [text], [story]), CONFIG, path)

    (row,) = query.examples(path, "kept_examples", "Calculator")

    assert row["text_before"] == before[-160:]
    assert row["text_after"] == after[:120]
    assert (row["url"], row["date"], row["source"]) == (text.url, text.date, text.source)


@pytest.mark.parametrize("char_offset", [0, 1, 60, 61])
def test_examples_context_at_the_edges_is_the_text_there(tmp_path: Path, char_offset: int) -> None:
    path = built(tmp_path, [CallStory(candidate_id="kept", char_offset=char_offset)])

    (row,) = query.examples(path, "kept_examples", "Calculator")

    text = document().text
    assert (row["text_before"], row["text_after"]) == (text[:char_offset], text[char_offset:])


@pytest.mark.parametrize("raw", ["a\\b", "[x] -> y", "--> ->> \\->", "line\nbreak\r", "\\[", "<&>"])
def test_examples_call_is_spelled_as_the_notation_spells_it(tmp_path: Path, raw: str) -> None:
    stories = [
        CallStory(candidate_id="kept", argument=raw, result=raw),
        CallStory(candidate_id="rejected", argument=raw, outcome=Outcome.REJECTED),
        CallStory(candidate_id="open", argument=raw, dropped=DropReason.NOT_CLOSED),
    ]
    path = built(tmp_path, stories)

    (kept,) = query.examples(path, "kept_examples", "Calculator")
    dropped = query.examples(path, "dropped_examples", "Calculator")

    assert kept["call"] == render_call_with_result("Calculator", raw, raw)
    calls = {row["reason"]: row["call"] for row in dropped}
    assert calls == {"rejected": render_call("Calculator", raw), "not_closed": raw}


def test_examples_unknown_view_is_refused(tmp_path: Path) -> None:
    path = built(tmp_path, [])

    with pytest.raises(ConfigError, match="kept_examples or dropped_examples"):
        query.examples(path, "documents", "Calculator")  # type: ignore[arg-type]  # the case


def test_tool_health_shares_and_latencies_by_hand(tmp_path: Path) -> None:
    seconds = [0.1, 0.2, 0.3, 0.4]
    stories = [CallStory(candidate_id=f"ok-{s}", latency_seconds=s) for s in seconds]
    late = CallStory(candidate_id="late", outcome=Outcome.TIMED_OUT, latency_seconds=10.0)
    path = built(tmp_path, [*stories, late])

    calculator, calendar = query.select(path, "SELECT * FROM tool_health")

    assert calculator["share_ok"] == pytest.approx(0.8)
    assert (calculator["ok"], calculator["timed_out"], calculator["rejected"]) == (4, 1, 0)
    assert calculator["median_latency_seconds"] == pytest.approx(0.3)
    # Between the 4th (0.4) and the 5th (10.0) value, at 0.95 * 4 = 3.8.
    assert calculator["p95_latency_seconds"] == pytest.approx(0.4 + 0.8 * 9.6)
    assert (calendar["calls"], calendar["share_ok"]) == (0, None)


def test_build_index_every_stage_fills_its_table(tmp_path: Path) -> None:
    root = tmp_path / "shards"
    stages = [
        *write_annotation(root, [document()], one_of_each()),
        write_stage(root, "quarantine", "all", [quarantined_row()], {"not_json": 1}),
        write_stage(root, "augment", "all", [augmented_document()]),
        write_stage(root, "evaluate", "all", [evaluated_item(), evaluated_item(item_id="2")]),
    ]
    path = tmp_path / "index.duckdb"

    build.build_index(stages, CONFIG, path)

    tables = [table for table, _ in build.TABLES.values()]
    counts = [query.query(path, f"SELECT count(*) FROM {table}")[1][0][0] for table in tables]
    # documents, quarantined, proposed, executed, scored, decided, augmented, evaluated
    assert counts == [1, 1, 14, 10, 6, 6, 1, 2]
    assert query.query(path, "SELECT calls[1].result FROM augmented_documents")[1] == [("91",)]


def test_build_index_no_stage_has_all_views_commented_and_no_calls(tmp_path: Path) -> None:
    path = tmp_path / "index.duckdb"

    build.build_index([], CONFIG, path)

    views = query.select(path, "SELECT view_name, comment FROM duckdb_views() WHERE NOT internal")
    assert len(views) == 17
    assert all(view["comment"] for view in views)
    filled = ("funnel", "threshold_sweep", "tool_health")  # a row per tool, with zeros
    for view in {view["view_name"] for view in views} - set(filled):
        columns, rows = query.query(path, f"SELECT * FROM {view}")
        assert columns
        assert rows == []


@pytest.fixture
def locked() -> Iterator[Callable[[Path], None]]:
    """Opens an index in another process, as the duckdb shell does."""
    code = (
        "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print(flush=True); sys.stdin.read()"
    )
    with contextlib.ExitStack() as stack:

        def lock(path: Path) -> None:
            command = [sys.executable, "-c", code, str(path)]
            shell = stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            )
            stack.callback(shell.kill)
            assert shell.stdout is not None
            assert shell.stdout.readline() == b"\n"

        yield lock


def test_index_that_another_process_has_open_is_read_and_replaced(
    tmp_path: Path, locked: Callable[[Path], None]
) -> None:
    path = built(tmp_path, one_of_each())
    counts = query.funnel(path)
    locked(path)
    with pytest.raises(duckdb.IOException, match="Could not set lock"):
        duckdb.connect(str(path), read_only=True)
    assert query.funnel(path) == counts
    assert built(tmp_path, one_of_each()[:2]) == path
    assert query.funnel(path)["Calculator"]["calls"] == 2
    assert [found.name for found in tmp_path.glob("*index*")] == [path.name]


def test_build_index_corrupt_index_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "index.duckdb"
    path.write_bytes(b"not a database")
    path.with_name("index.duckdb.wal").write_bytes(b"stale")
    with pytest.raises(ConfigError, match="built again from the shards"):
        query.funnel(path)

    built(tmp_path, one_of_each())

    assert query.funnel(path)["Calculator"]["calls"] == 14
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["index.duckdb", "shards"]


def test_build_index_lost_shard_leaves_the_old_index(tmp_path: Path) -> None:
    path = built(tmp_path, one_of_each())
    stages = write_annotation(tmp_path / "shards", [document()], one_of_each())
    Path(stages[1].shards[0].path).unlink()

    with pytest.raises(ShardIntegrityError, match="sample/Calculator"):
        build.build_index(stages, CONFIG, path)

    assert query.funnel(path)["Calculator"]["calls"] == 14
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["index.duckdb", "shards"]


def test_build_index_shard_of_other_length_is_refused(tmp_path: Path) -> None:
    stages = write_annotation(tmp_path / "shards", [document()], one_of_each())
    write_annotation(tmp_path / "shards", [document()], one_of_each()[:4])

    with pytest.raises(ShardIntegrityError, match="hold 4 rows, expected 14"):
        build.build_index(stages, CONFIG, tmp_path / "index.duckdb")


def in_groups(root: Path, stories: list[CallStory], num_groups: int) -> list[StageRef]:
    """The stories' stages with one shard index for each group of stories."""
    by_stage: dict[tuple[str, str], list[StageRef]] = {}
    for group in range(num_groups):
        own = stories[group::num_groups]
        for ref in write_annotation(root / str(group), [document()], own):
            shards = tuple(dataclasses.replace(s, shard_index=group) for s in ref.shards)
            by_stage.setdefault((ref.stage, ref.tool), []).append(
                dataclasses.replace(ref, shards=shards)
            )
    documents = by_stage.pop(("corpus", "all"))[:1]
    return documents + [
        dataclasses.replace(refs[0], shards=tuple(s for ref in refs for s in ref.shards))
        for refs in by_stage.values()
    ]


def test_build_index_joined_in_ranges_equals_joined_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stories = [*one_of_each(), CallStory(candidate_id="day", tool="Calendar")]
    stages = in_groups(tmp_path / "shards", stories, 4)
    found = []
    for joined_rows in (1, 1000):
        monkeypatch.setattr(build, "_JOINED_ROWS", joined_rows)
        path = tmp_path / f"{joined_rows}.duckdb"
        build.build_index(stages, CONFIG, path)
        found.append(query.query(path, "SELECT * FROM candidates ORDER BY candidate_id")[1])

    assert len(found[0]) == 15
    assert repr(found[0]) == repr(found[1])  # nan is not equal to itself


def test_build_index_result_without_its_call_is_refused(tmp_path: Path) -> None:
    stages = write_annotation(tmp_path / "a", [document()], one_of_each())
    others = write_annotation(tmp_path / "b", [document()], [CallStory(candidate_id="stranger")])
    mixed = [*stages[:2], *others[2:]]

    with pytest.raises(ShardIntegrityError, match="execute hold 0 rows, expected 1"):
        build.build_index(mixed, CONFIG, tmp_path / "index.duckdb")


def test_stage_views_have_the_records_fields_and_rows(tmp_path: Path) -> None:
    stages = write_annotation(tmp_path / "shards", [document()], one_of_each())
    path = tmp_path / "index.duckdb"
    build.build_index(stages, CONFIG, path)

    for ref in stages[1:]:
        table, record_type = build.TABLES[ref.stage]
        fields = [field.name for field in dataclasses.fields(record_type)]
        columns, rows = query.query(path, f"SELECT * FROM {table}")
        assert columns == fields
        written = [
            tuple(listed(getattr(record, name)) for name in fields)
            for shard in ref.shards
            for record in read_shard(shard, record_type)
        ]
        assert sorted(map(repr, rows)) == sorted(map(repr, written))


def listed(value: object) -> object:
    """A field as DuckDB gives it."""
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, StrEnum) else value


def test_settings_are_flat_and_per_tool_values_have_the_tool_in_the_key(tmp_path: Path) -> None:
    path = built(tmp_path, [])

    settings = dict(query.query(path, "SELECT * FROM settings")[1])

    assert settings["filter.filtering_threshold.Calculator"] == "1.0"
    assert settings["sample.sampling_threshold"] == "0.05"
    assert settings["corpus.sources"] == '["texts.jsonl"]'
    assert settings["corpus.max_documents"] == "null"
    assert settings["model.dtype"] == "auto"


def test_query_limit_cuts_the_rows(tmp_path: Path) -> None:
    path = built(tmp_path, one_of_each())
    assert query.query(path, "-- no statement", limit=5) == ([], [])

    columns, rows = query.query(path, "SELECT tool, reason FROM candidates ORDER BY 2", limit=5)

    assert columns == ["tool", "reason"]
    assert len(rows) == 5


@pytest.mark.parametrize(
    "sql",
    [
        "SELEC 1",
        "SELECT * FROM nowhere",
        "DELETE FROM documents",
        "CREATE TABLE mine AS SELECT 1",
        "COPY documents TO '/tmp/documents.csv'",
        "SELECT * FROM read_text('/etc/hostname')",
    ],
)
def test_query_wrong_or_writing_is_refused_in_one_line(tmp_path: Path, sql: str) -> None:
    path = built(tmp_path, [])

    with pytest.raises(ConfigError) as caught:
        query.query(path, sql)

    assert "\n" not in str(caught.value)


def test_query_missing_index_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="toolformer annotate"):
        query.query(tmp_path / "index.duckdb", "SELECT 1")
