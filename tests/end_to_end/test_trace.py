"""From a call back to what taught it, against a plain loop over the shards of a finished run."""

import difflib
import json
import shutil
from dataclasses import asdict

import pytest

from tasks.gc import needed_folders
from tasks.output.record import read_run
from toolformer_core.records import (
    AugmentedDocument,
    Document,
    EvaluatedItem,
    ExecutedCall,
    FilterDecision,
    ScoredCall,
)
from toolformer_core.shards import read_manifest, read_shard


@pytest.fixture
def trace(finished, invoke):
    """(exit code, JSON or None, standard error) of toolformer trace on the finished run."""

    def run(*options):
        code, output, errors = invoke("trace", "--out", finished[0].root, "--json", *options)
        return code, json.loads(output) if code == 0 else None, errors

    return run


def rows(manifests, stage, record_type):
    refs = [ref for ref in map(read_manifest, manifests) if ref.stage == stage]
    return [row for ref in refs for shard in ref.shards for row in read_shard(shard, record_type)]


def taught(manifests):
    """Every call of C*, by hand: what the shards say of it."""
    documents = {row.document_id: row for row in rows(manifests, "corpus", Document)}
    stages = {"execute": ExecutedCall, "score": ScoredCall, "filter": FilterDecision}
    by_id = {
        stage: {row.candidate_id: row for row in rows(manifests, stage, record_type)}
        for stage, record_type in stages.items()
    }
    for augmented in rows(manifests, "augment", AugmentedDocument):
        text = documents[augmented.document_id]
        for call in augmented.calls:
            scored = by_id["score"][call.candidate_id]
            yield {
                "candidate_id": call.candidate_id,
                "tool": call.tool,
                "argument": call.argument,
                "result": by_id["execute"][call.candidate_id].result,
                "tool_version": by_id["execute"][call.candidate_id].tool_version,
                "document_id": text.document_id,
                "source": text.source,
                "url": text.url,
                "date": text.date,
                "licence": "not stated",
                "loss_without_call": scored.loss_without_call,
                "loss_with_empty_result": scored.loss_with_empty_result,
                "loss_with_result": scored.loss_with_result,
                "loss_reduction": scored.loss_reduction,
                "filtering_threshold": by_id["filter"][call.candidate_id].filtering_threshold,
            }


def nearest(manifests, tool, argument, limit):
    """The training calls of a tool with their similarity, the most similar first."""
    found = [
        {**one, "similarity": difflib.SequenceMatcher(None, one["argument"], argument).ratio()}
        for one in taught(manifests)
        if one["tool"] == tool
    ]
    return sorted(found, key=lambda one: (-one["similarity"], one["candidate_id"]))[:limit]


def assert_told(found, expected):
    """The calls are those expected; each excerpt holds the call as C* spells it."""
    for one in found:
        assert f"[{one['tool']}(" in one.pop("excerpt")
    for one in expected:
        if "similarity" in one:
            one["similarity"] = round(one["similarity"], 3)
    assert found == expected


def test_trace_call_finds_the_training_calls_most_like_it(finished, trace):
    _, manifests = finished
    [known, *_] = [one["argument"] for one in taught(manifests) if one["tool"] == "Calculator"]
    for argument, is_there in ((known, True), (f"{known}9", False)):
        code, found, _ = trace("--call", f"Calculator({argument})", "--limit", "3")
        [one] = found["traces"]
        assert (code, one["in_augmented"]) == (0, is_there)
        assert_told(one["calls"], nearest(manifests, "Calculator", argument, 3))


def test_trace_tells_the_model_and_its_corpus(finished, trace):
    project, manifests = finished
    _, found, _ = trace("--call", "Calendar()")
    refs = {ref.stage: ref for ref in map(read_manifest, manifests)}
    model, augmented = found["model"], found["augmented"]
    assert model["folder"] == str((project.root / "model").resolve())
    assert model["registered_model"].startswith("toolformer/")
    assert all(model[name] for name in ("mlflow_run", "prefect_flow_run", "git_commit"))
    assert augmented["digest"] == refs["augment"].digest
    assert augmented["calls"] == len(list(taught(manifests)))
    evaluated = rows(manifests, "evaluate", EvaluatedItem)
    assert {item.model for item in evaluated if item.arm == "on"} == {model["digest"]}


def test_trace_without_mlflow_says_so_and_tells_the_rest(finished, trace):
    code, found, _ = trace("--call", "Calendar()", "--tracking", "http://127.0.0.1:9")
    assert code == 0
    assert found["model"]["mlflow_run"].startswith("MLflow at http://127.0.0.1:9 does not answer")
    assert found["traces"][0]["calls"]


def test_trace_document_tells_its_calls(finished, trace):
    _, manifests = finished
    expected = list(taught(manifests))
    wanted = expected[0]["document_id"]
    _, found, _ = trace("--document", wanted)
    [one] = found["traces"]
    assert one["in_augmented"]
    assert_told(one["calls"], [call for call in expected if call["document_id"] == wanted])
    other = next(
        row.document_id
        for row in rows(manifests, "corpus", Document)
        if row.document_id not in {call["document_id"] for call in expected}
    )
    _, found, _ = trace("--document", other)
    assert found["traces"] == [{"document": other, "in_augmented": False, "calls": []}]


def test_trace_item_traces_every_call_of_the_tuned_model(finished, trace):
    _, manifests = finished
    items = [item for item in rows(manifests, "evaluate", EvaluatedItem) if item.arm == "on"]
    for item in sorted(items, key=lambda item: -len(item.calls))[:2]:
        _, found, _ = trace("--item", f"{item.benchmark}:{item.item_id}", "--limit", "2")
        assert found["item"]["completion"] == item.completion
        assert len(found["traces"]) == len(item.calls)
        for call, one in zip(item.calls, found["traces"], strict=True):
            assert {name: one[name] for name in asdict(call)} == asdict(call)
            assert_told(one["calls"], nearest(manifests, call.tool, call.argument, 2))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), "pass one of --call, --item and --document"),
        (("--call", "Calendar()", "--document", "x"), "pass one of"),
        (("--call", "no call"), "not an API call"),
        (("--item", "dateset"), "expected BENCHMARK:ITEM_ID"),
        (("--item", "dateset:nothing"), "dateset:nothing: not evaluated"),
        (("--document", "nothing"), "--document nothing: not in the corpus"),
    ],
)
def test_trace_bad_input_is_one_line(trace, options, expected):
    code, _, errors = trace(*options)
    assert (code, errors.count("\n")) == (2, 1)
    assert expected in errors


def test_trace_is_shown_as_a_table(finished, invoke):
    code, output, _ = invoke("trace", "--out", finished[0].root, "--call", "Unknown(1)")
    assert code == 0
    assert "Unknown(1) is not in C*, nor is any other call to that tool" in output
    code, output, _ = invoke("trace", "--out", finished[0].root, "--call", "Calendar()")
    assert "Calendar() is in C*" in output


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished run, without its model: what is traced is the C* of the last run."""
    root = tmp_path / "run"
    shutil.copytree(finished[0].root, root, symlinks=True)
    (root / "model").unlink()
    return root


def test_trace_finds_the_shards_of_a_run_that_was_killed_before_it_published_them(
    copied, finished, invoke
):
    for manifest in copied.glob("*/*/*/manifest.json"):
        if manifest.parts[-4] in ("execute", "score", "filter", "augment"):
            manifest.unlink()
    code, _, errors = invoke(
        *("annotate", "--config", finished[0].config_file, "--out", copied, "--update"),
        *("--set", "corpus.max_documents=8"),
    )
    assert code == 0, errors
    manifests = read_run(copied).manifests
    scored = next(ref for ref in map(read_manifest, manifests) if ref.stage == "score")
    assert scored.num_cached == len(scored.shards) == 2
    code, output, errors = invoke("trace", "--out", copied, "--json", "--call", "Calendar()")
    assert code == 0, errors
    [traced] = json.loads(output)["traces"]
    assert_told(traced["calls"], nearest(manifests, "Calendar", "", 5))
    used = {"/".join(shard.path.split("/")[-4:-1]) for shard in scored.shards}
    assert used <= needed_folders(copied)


def test_trace_of_a_stage_that_has_gone_is_one_line(copied, invoke):
    for manifest in copied.glob("score/*/*/manifest.json"):
        manifest.unlink()
    code, _, errors = invoke("trace", "--out", copied, "--call", "Calendar()")
    assert (code, errors.count("\n")) == (2, 1)
    assert "leads to no record of" in errors


def test_trace_tells_the_base_model_and_the_licences_of_the_models_own_run(
    copied, finished, invoke
):
    (copied / "model").symlink_to((finished[0].root / "model").readlink())
    record = json.loads((copied / "run.json").read_text())
    record["config"]["licences"] = [
        {"source": source, "licence": "CC0"} for source in record["config"]["corpus"]["sources"]
    ]
    record["config"]["corpus"]["sources"] = ["other.jsonl"]
    record["config"]["model"]["name_or_path"] = "organisation/other"
    (copied / "run.json").write_text(json.dumps(record))
    _, output, _ = invoke("trace", "--out", copied, "--json", "--call", "Calendar()")
    found = json.loads(output)
    base = finished[0].config.model.name_or_path.rpartition("/")[2]
    assert found["model"]["base_model"] == base
    assert {call["licence"] for call in found["traces"][0]["calls"]} == {"CC0"}
