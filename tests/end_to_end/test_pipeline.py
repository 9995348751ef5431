"""The whole pipeline on a tiny model: first run, repeated, changed, damaged, killed.

The tests share one run (fixture `finished`) and leave it finished; each takes its own snapshot.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.cli.summary import run_summary
from flows.pipeline import annotate, run_pipeline
from tasks.gc import delete, find_garbage
from tasks.index.query import funnel, query
from tests.end_to_end.conftest import NUM_DOCUMENTS
from toolformer_core.augment import strip_calls
from toolformer_core.notation import parse_call
from toolformer_core.records import (
    AugmentedDocument,
    Document,
    EvaluatedItem,
    FilterDecision,
    QuarantinedRow,
)
from toolformer_core.shards import read_manifest, read_shard, total_counts

TOOLS = ("Calculator", "Calendar", "WikiSearch")
NUM_SHARDS = 4
PER_TOOL_STAGES = ("sample", "execute", "score", "filter")


def stages(manifests):
    return {(ref.stage, ref.tool): ref for ref in map(read_manifest, manifests)}


def rows(ref, record_type):
    return [row for shard in ref.shards for row in read_shard(shard, record_type)]


def rule_of(choice):
    return f"{choice['rule']['setting']} = {choice['rule']['value']:g}"


def shard_files(root):
    """Inode and modification time of every shard: a rewritten one differs."""
    paths = [path for path in root.glob("*/**/*.parquet") if "results" not in path.parts]
    return {
        str(path.relative_to(root)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths
    }


def augmented_bytes(manifests):
    """C* as it lies on the disk."""
    augmented = stages(manifests)["augment", "all"]
    return [Path(shard.path).read_bytes() for shard in augmented.shards]


def test_first_run_has_every_stage_and_shard(finished):
    _, manifests = finished
    found = stages(manifests)
    expected = {(stage, tool) for stage in PER_TOOL_STAGES for tool in TOOLS}
    expected |= {(s, "all") for s in ("corpus", "quarantine", "augment", "evaluate")}
    assert set(found) == expected
    for (stage, _), ref in found.items():
        assert len(ref.shards) == {"quarantine": 1, "evaluate": 9}.get(stage, NUM_SHARDS)
    for manifest in manifests:
        content = json.loads(manifest.read_text())
        assert content["counts"] == total_counts(read_manifest(manifest))
        assert content["git_commit"]


def test_first_run_computes_every_shard_in_its_own_folder(finished):
    _, manifests = finished
    for manifest in manifests:
        ref = read_manifest(manifest)
        assert ref.num_cached == 0
        if ref.stage != "evaluate":  # its shards are named by benchmark and arm
            assert [shard.shard_index for shard in ref.shards] == list(range(len(ref.shards)))
        if ref.stage != "quarantine":
            assert {Path(shard.path).parent for shard in ref.shards} == {manifest.parent}


def test_first_run_quarantines_and_counts_bad_rows(finished):
    found = stages(finished[1])
    documents = rows(found["corpus", "all"], Document)
    quarantined = rows(found["quarantine", "all"], QuarantinedRow)
    counts = total_counts(found["quarantine", "all"])
    assert len(documents) == NUM_DOCUMENTS
    assert sorted(row.reason for row in quarantined) == ["bad_json", "no_text", "not_an_object"]
    assert counts == {
        "rows": NUM_DOCUMENTS + 4,
        "passages": NUM_DOCUMENTS + 1,
        "too_short": 1,
        "quarantined:bad_json": 1,
        "quarantined:not_an_object": 1,
        "quarantined:no_text": 1,
    }


def test_first_run_funnel_adds_up(finished):
    project, manifests = finished
    found = stages(manifests)
    counts = funnel(project.root / "calls.duckdb")
    assert tuple(counts) == TOOLS
    for tool, row in counts.items():
        sampled = total_counts(found["sample", tool])
        assert row["documents"] == sampled["documents"] == NUM_DOCUMENTS
        assert row["calls"] == sampled["calls"] == row["kept"] + sum(row["dropped"].values())
        assert row["positions"] == sampled["positions"] > 0
        assert row["calls"] >= row["parsed"] >= row["executed"] >= row["scored"] >= row["kept"]
        executed = total_counts(found["execute", tool])
        assert sum(executed.values()) == sampled.get("proposed", 0)
        assert row["executed"] == executed["ok"] == row["scored"]
        decided = total_counts(found["filter", tool])
        assert row["kept"] == decided.get("kept", 0)
        assert row["dropped"].get("below_threshold", 0) == decided.get("below_threshold", 0)
        num_rows = sum(shard.num_rows for shard in found["sample", tool].shards)
        assert num_rows == row["calls"]
    assert counts["Calendar"]["kept"] > 0


def test_first_run_augmented_texts_give_the_originals_back(finished):
    found = stages(finished[1])
    texts = {d.document_id: d.text for d in rows(found["corpus", "all"], Document)}
    kept = {
        d.candidate_id: d
        for tool in TOOLS
        for d in rows(found["filter", tool], FilterDecision)
        if d.kept
    }
    augmented = rows(found["augment", "all"], AugmentedDocument)
    assert {a.document_id for a in augmented} == {d.document_id for d in kept.values()}
    for document in augmented:
        assert strip_calls(document) == document.original_text == texts[document.document_id]
        for span in document.calls:
            decision = kept[span.candidate_id]
            call = parse_call(document.augmented_text[span.start : span.end].strip(" "))
            assert (call.tool, call.argument, call.result) == (
                decision.tool,
                decision.argument,
                decision.result,
            )
            assert (
                document.augmented_text[span.result_start : span.result_end]
                .strip(" ")
                .endswith("]")
            )


def test_first_run_is_tracked_as_parent_and_children(finished):
    from mlflow.tracking import MlflowClient

    from tasks.tracking.store import EXPERIMENT, tracking_uri

    project, _ = finished
    client = MlflowClient(tracking_uri(project.runtime))
    experiment = client.get_experiment_by_name(EXPERIMENT)
    runs = client.search_runs([experiment.experiment_id], order_by=["attribute.start_time ASC"])
    parent = next(run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    children = [
        run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id
    ]
    assert sorted(run.info.run_name for run in children) == sorted(
        [*PER_TOOL_STAGES, "corpus", "augment", "finetune", "call_rule", "evaluate"]
    )
    assert {run.info.status for run in (parent, *children)} == {"FINISHED"}
    assert float(parent.data.params["tau_f"]) == 0.0
    assert parent.data.params["dtype"] == "float32"
    chosen = json.loads((project.root / "run.json").read_text())["call_rule"]
    assert parent.data.params["call_rule"] == rule_of(chosen).replace(" ", "")
    [child] = [run for run in children if run.info.run_name == "call_rule"]
    for count in chosen["counts"]:
        name = f"call_rule/{count['rule']['setting']}_{count['rule']['value']:g}"
        assert child.data.metrics[f"{name}/exact_count"] == count["num_exact"]
    assert {"fingerprint", "git_commit", "prefect_flow_run_id"} <= set(parent.data.tags)
    kept = funnel(project.root / "calls.duckdb")["Calendar"]["kept"]
    assert parent.data.metrics["filter/Calendar/kept_count"] >= kept


def test_first_run_has_its_call_rule_in_model_report_answers_and_summary(finished):
    project, manifests = finished
    chosen = json.loads((project.root / "run.json").read_text())["call_rule"]
    described = json.loads((project.root / "model" / "toolformer.json").read_text())
    assert described["call_rule"] == {
        "origin": f"chosen on {chosen['num_texts']} held-out texts",
        **chosen,
    }
    decode = described["decode"]
    assert (decode[chosen["rule"]["setting"]]) == chosen["rule"]["value"]
    answered = rows(stages(manifests)["evaluate", "all"], EvaluatedItem)
    assert {item.call_top_k for item in answered if item.arm == "on"} == {decode["call_top_k"] or 1}
    summary = run_summary(project.root)
    assert summary["call_rule"] == chosen
    page = (project.root / "report.html").read_text(encoding="utf-8")
    assert "When a call starts" in page
    assert rule_of(chosen) in page


def test_first_run_views_can_be_queried(finished):
    index = finished[0].root / "calls.duckdb"
    _, views = query(index, "SELECT view_name FROM duckdb_views() WHERE NOT internal")
    assert {"candidates", "funnel", "threshold_sweep"} <= {name for (name,) in views}
    for (name,) in views:
        query(index, f"SELECT * FROM {name}", limit=5)
    names, found = query(index, "SELECT benchmark, arm, count(*) FROM evaluated_items GROUP BY ALL")
    assert len(names) == 3
    assert sorted(found) == sorted(
        (benchmark, arm, 3)
        for benchmark in ("dateset", "one_step", "sums")
        for arm in ("base", "disabled", "on")
    )


def test_first_run_leaves_report_and_model(finished):
    root = finished[0].root
    page = (root / "report.html").read_text(encoding="utf-8")
    assert all(tool in page for tool in TOOLS)
    assert (root / "model" / "model.safetensors").is_file()
    assert "arithmetic" in page
    described = json.loads((root / "model" / "toolformer.json").read_text())
    assert described["tools"]["enabled"] == list(TOOLS)
    assert (described["dtype"], described["dtype_setting"]) == ("float32", "float32")


def test_second_run_after_gc_finds_every_shard_and_rewrites_none(finished):
    project, first = finished
    garbage = find_garbage(project.root, time.time())
    assert {one.kind for one in garbage} <= {"checkpoints", "locks"}
    delete(garbage, project.root)
    before, model = shard_files(project.root), (project.root / "model").resolve()
    weights = (model / "model.safetensors").stat()
    again = run_pipeline(project.config, project.runtime)
    assert again == first
    for (stage, tool), ref in stages(again).items():
        if stage not in ("corpus", "quarantine"):  # one task makes both, see the next test
            assert (stage, tool, ref.num_cached) == (stage, tool, len(ref.shards))
    assert shard_files(project.root) == before
    assert (project.root / "model").resolve() == model
    assert (model / "model.safetensors").stat().st_mtime_ns == weights.st_mtime_ns


def test_changed_threshold_repeats_no_forward_pass(finished):
    project, _ = finished
    before = shard_files(project.root)
    changed = project.config.model_copy(
        update={"filter": project.config.filter.model_copy(update={"filtering_threshold": 0.05})}
    )
    found = stages(annotate(changed, project.runtime))
    for (stage, _), ref in found.items():
        if stage in ("sample", "execute", "score"):
            assert ref.num_cached == NUM_SHARDS
    assert found["filter", "Calendar"].num_cached == 0
    after = shard_files(project.root)
    assert {name: after[name] for name in before} == before
    assert {name.partition("/")[0] for name in set(after) - set(before)} <= {"filter", "augment"}


@pytest.mark.parametrize("deleted", ["sample/Calculator", "augment/all"])
def test_deleted_shard_is_the_only_one_computed_anew(finished, deleted):
    project, manifests = finished
    stage, tool = deleted.split("/")
    shard = stages(manifests)[stage, tool].shards[2]
    before, texts = shard_files(project.root), augmented_bytes(manifests)
    Path(shard.path).unlink()
    again = annotate(project.config, project.runtime)
    assert again == [manifest for manifest in manifests if "evaluate" not in manifest.parts]
    found = stages(again)
    after = shard_files(project.root)
    assert after.keys() == before.keys()
    rewritten = {name for name in before if before[name] != after[name]}
    assert rewritten == {os.path.relpath(shard.path, project.root)}
    assert found[stage, tool].num_cached == NUM_SHARDS - 1
    assert augmented_bytes(manifests) == texts


def start_cli(project, root, api_url):
    """`toolformer annotate` in a process group of its own, on the test server."""
    command = [
        *(sys.executable, "-c", "from flows.cli.main import main; main()", "annotate"),
        *("--config", str(project.config_file), "--out", str(root), "--json"),
    ]
    return subprocess.Popen(
        command,
        env={**os.environ, "PREFECT_API_URL": api_url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(condition, process, timeout_seconds=120):
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_killed_run_is_resumed_by_two_at_once_that_compute_each_shard_once(
    finished, prefect_server, tmp_path
):
    project, manifests = finished
    root = tmp_path / "killed"
    process = start_cli(project, root, prefect_server)
    with contextlib.ExitStack() as stack:
        stack.callback(process.stdout.close)
        stack.callback(process.stderr.close)
        wait_for(lambda: any(root.glob("sample/*/*/part-*.parquet")), process)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)
    finished_shards = shard_files(root)
    assert any(name.startswith("sample/") for name in finished_shards)
    assert not list(root.glob("augment/*/*/manifest.json"))

    num_stored = len(list((root / "results").iterdir()))
    resumed = [start_cli(project, root, prefect_server) for _ in range(2)]
    ends = [process.communicate(timeout=200) for process in resumed]
    assert [process.returncode for process in resumed] == [0, 0], ends
    num_computed = [
        int(shards) - int(cached)
        for _, errors in ends
        for shards, cached in re.findall(r"(\d+) shards, (\d+) cached", errors)
    ]
    num_tasks = 1 + NUM_SHARDS * (len(TOOLS) * len(PER_TOOL_STAGES) + 1)  # with corpus and augment
    assert num_stored + sum(num_computed) == num_tasks
    assert augmented_bytes(root.glob("augment/*/*/manifest.json")) == augmented_bytes(manifests)
    after = shard_files(root)
    # The last shard may have been written without its result having been stored.
    rewritten = {name for name in finished_shards if after[name] != finished_shards[name]}
    assert len(rewritten) <= 1
    expected = funnel(project.root / "calls.duckdb")
    assert [json.loads(output)["funnel"] for output, _ in ends] == [expected, expected]
    assert not list(root.rglob("*.tmp"))


@pytest.mark.services
def test_copied_folder_has_its_own_model_and_leaves_the_original_alone(finished, tmp_path):
    project, _ = finished
    root = tmp_path / "copy"
    shutil.copytree(project.root, root, symlinks=True)
    before = {path: path.stat().st_mtime_ns for path in project.root.rglob("*")}
    copied = run_pipeline(project.config, project.runtime.model_copy(update={"root": root}))
    for ref in stages(copied).values():
        assert ref.num_cached == len(ref.shards) or ref.stage in ("corpus", "quarantine")
        assert all(shard.path.startswith(f"{root}/") for shard in ref.shards)
    assert (root / "model").resolve().is_relative_to(root.resolve())
    weights = (project.root / "model").resolve() / "model.safetensors"
    copy = root / weights.relative_to(project.root.resolve())
    assert copy.stat().st_mtime_ns == weights.stat().st_mtime_ns  # not trained anew
    assert {path: path.stat().st_mtime_ns for path in project.root.rglob("*")} == before
