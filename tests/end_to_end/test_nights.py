"""Documents added to a finished annotation: only they are computed. A scheduled night does this."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tasks.corpus import earlier_documents
from tasks.index.query import query
from tasks.output.record import read_run
from tasks.trace import trace_call
from tests.end_to_end.conftest import NUM_DOCUMENTS
from tests.support.builders import pipeline_config
from toolformer_core.config.runtime import Runtime
from toolformer_core.errors import ConfigError
from toolformer_core.notation import ParsedCall
from toolformer_core.records import AugmentedDocument, Document
from toolformer_core.shards import read_manifest, read_shard, total_counts

NUM_SHARDS = 4
PER_TOOL_STAGES = ("sample", "execute", "score", "filter")


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of the finished run, and settings with a second source of three new texts."""
    project, _ = finished
    shutil.copytree(project.root, tmp_path / "nights", symlinks=True)
    texts = [f"Later {n}: He sold {n + 4} plums and {n + 2} figs on a Friday." for n in range(3)]
    rows = [*map(json.dumps, ({"text": text} for text in texts))]
    (tmp_path / "later.jsonl").write_text("\n".join(rows))
    content = yaml.safe_load(project.config_file.read_text())
    content["corpus"]["sources"].append(str(tmp_path / "later.jsonl"))
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(content))
    return tmp_path


def stages(root):
    return {(ref.stage, ref.tool): ref for ref in map(read_manifest, read_run(root).manifests)}


def test_added_documents_alone_are_computed(folder, invoke):
    root = folder / "nights"
    before = stages(root)
    code, _, errors = invoke(
        "annotate", "--config", folder / "settings.yaml", "--out", root, "--add"
    )
    assert code == 0, errors
    after = stages(root)
    for stage, tool in before:
        if stage in ("corpus", *PER_TOOL_STAGES):
            ref = after[stage, tool]
            assert ref.shards[:NUM_SHARDS] == before[stage, tool].shards
            assert (len(ref.shards), ref.num_cached) == (NUM_SHARDS + 1, NUM_SHARDS)
    added = read_shard(after["corpus", "all"].shards[-1], Document)
    assert [document.text[:7] for document in added] == ["Later 0", "Later 1", "Later 2"]
    counts = total_counts(after["quarantine", "all"])
    assert (counts["earlier"], counts["new"]) == (NUM_DOCUMENTS, 3)
    _, [[indexed]] = query(root / "calls.duckdb", "SELECT count(*) FROM documents")
    assert indexed == NUM_DOCUMENTS + 3
    (root / "model").unlink()  # what is traced is then this night's C*
    call = ParsedCall(tool="Calendar", argument="", result=None)
    [traced] = trace_call(root, call, 1000, Runtime(root=root))["traces"]
    texts = [
        d for ref in after["augment", "all"].shards for d in read_shard(ref, AugmentedDocument)
    ]
    calls = [call for text in texts for call in text.calls if call.tool == "Calendar"]
    assert {one["candidate_id"] for one in traced["calls"]} == {c.candidate_id for c in calls}


def test_added_documents_cut_otherwise_are_refused(folder, invoke):
    code, _, errors = invoke(
        *("annotate", "--config", folder / "settings.yaml", "--out", folder / "nights", "--add"),
        *("--set", "corpus.max_document_chars=300"),
    )
    assert code == 2
    assert "corpus.max_document_chars was 1200 in" in errors
    assert "set it to 1200, or pass another --out" in errors


def earlier(root, *changes):
    """What a night at this place finds of those before it."""
    return earlier_documents(pipeline_config(*changes).corpus, Runtime(root=root))


def test_earlier_documents_are_found_where_the_folder_has_been_moved(folder, finished):
    project, _ = finished
    root, old = folder / "nights", project.root.with_name("away")
    documents = stages(project.root)["corpus", "all"].shards
    project.root.rename(old)  # what is left is the copy, whose manifests name the old place
    try:
        found = earlier(root)
        assert found == [
            replace(shard, path=str(root / Path(shard.path).relative_to(project.root)))
            for shard in documents
        ]
        assert sum(len(read_shard(shard, Document)) for shard in found) == NUM_DOCUMENTS
        Path(found[1].path).unlink()
        with pytest.raises(ConfigError, match=r"earlier nights are gone: .*part-00001\.parquet"):
            earlier(root)
    finally:
        old.rename(project.root)


def test_earlier_documents_of_another_least_length_are_taken_as_they_are(folder):
    assert len(earlier(folder / "nights", "corpus.min_document_chars=90")) == NUM_SHARDS


def test_night_of_an_emptied_inbox_computes_nothing(folder, finished, invoke):
    project, _ = finished
    root = folder / "nights"
    content = yaml.safe_load((folder / "settings.yaml").read_text())
    content["corpus"]["sources"] = [str(folder / "inbox/*.jsonl")]
    (folder / "inbox.yaml").write_text(yaml.safe_dump(content))
    code, _, errors = invoke("annotate", "--config", folder / "inbox.yaml", "--out", root, "--add")
    assert code == 0, errors
    after = stages(root)
    assert after["sample", "Calculator"].num_cached == NUM_SHARDS
    assert after["corpus", "all"].digest == stages(project.root)["corpus", "all"].digest
    assert all(Path(shard.path).is_relative_to(root) for shard in after["corpus", "all"].shards)
    code, _, errors = invoke(
        "annotate", "--config", folder / "inbox.yaml", "--out", folder / "new", "--add"
    )
    assert code == 2
    assert "no file matches" in errors
