"""The whole pipeline with its shards on an S3 server; `finished` is the run to compare with.

What is quick of it is in tests/contract/test_storage.py.
"""

import json
import shutil
from pathlib import Path

import fsspec
import pytest

from flows.pipeline import annotate
from tasks.index.query import query
from tests.support import object_store
from toolformer_core.config.runtime import Runtime
from toolformer_core.shards import StageRef, is_intact, read_manifest
from toolformer_core.storage import file_system

pytestmark = pytest.mark.services

NUM_SHARDS = 4


@pytest.fixture(scope="module")
def bucket():
    with object_store.bucket() as name:
        yield name


@pytest.fixture(scope="module")
def remote(finished, bucket, tmp_path_factory):
    """The manifests of an annotation whose shards are on the server, and where it ran."""
    project, _ = finished
    runtime = Runtime(
        root=tmp_path_factory.mktemp("remote") / "run",
        home=project.runtime.home,
        storage=f"s3://{bucket}/shards",
    )
    return annotate(project.config, runtime), runtime


def stages(manifests) -> dict[tuple[str, str], StageRef]:
    return {(ref.stage, ref.tool): ref for ref in map(read_manifest, manifests)}


def num_computed(manifests):
    """How many shards of each stage were computed, where any were."""
    missed = {key: len(ref.shards) - ref.num_cached for key, ref in stages(manifests).items()}
    return {key: count for key, count in missed.items() if count}


def test_remote_run_makes_the_same_shards_and_leaves_none_in_its_root(finished, remote):
    local, there = stages(finished[1]), stages(remote[0])
    for key, ref in there.items():
        assert ref.digest == local[key].digest
        assert all(shard.path.startswith(f"{remote[1].storage}/") for shard in ref.shards)
    assert len(there["augment", "all"].shards) == NUM_SHARDS
    root = remote[1].root
    assert [path.name for path in root.rglob("*.parquet")] == ["cassette.parquet"]
    assert not (root / "results").exists()


def test_remote_run_has_the_same_index(finished, remote):
    sql = "SELECT * FROM funnel ORDER BY tool"
    roots = (finished[0].root, remote[1].root)
    local, there = (query(root / "calls.duckdb", sql) for root in roots)
    assert there == local


def test_second_machine_computes_nothing(finished, remote, tmp_path):
    runtime = remote[1].model_copy(update={"root": tmp_path / "run"})
    again = annotate(finished[0].config, runtime)
    assert num_computed(again) == {}
    assert {k: r.shards for k, r in stages(again).items()} == {
        k: r.shards for k, r in stages(remote[0]).items()
    }


def test_lost_shard_alone_is_computed_anew(finished, remote):
    before = stages(remote[0])
    lost = before["execute", "Calendar"].shards[1]
    system, path = file_system(lost.path)
    system.rm_file(path)
    assert not is_intact(lost)
    again = annotate(finished[0].config, remote[1])
    assert num_computed(again) == {("execute", "Calendar"): 1}
    assert is_intact(lost)
    assert stages(again)["augment", "all"].digest == before["augment", "all"].digest


def test_local_run_that_is_copied_to_a_storage_is_found_there(finished, bucket, tmp_path):
    project, manifests = finished
    storage = f"s3://{bucket}/copied"
    fsspec.filesystem("s3").put(f"{project.root}/", storage, recursive=True)
    runtime = Runtime(root=tmp_path / "run", home=project.runtime.home, storage=storage)
    copied = annotate(project.config, runtime)
    assert num_computed(copied) == {}
    for key, ref in stages(copied).items():
        assert ref.digest == stages(manifests)[key].digest
        assert all(shard.path.startswith(f"{storage}/") for shard in ref.shards)


def test_root_that_was_moved_computes_nothing(finished, tmp_path):
    project, _ = finished
    root = tmp_path / "moved"
    shutil.copytree(project.root, root, symlinks=True)
    away = project.root.rename(project.root.with_name("away"))
    try:
        moved = annotate(project.config, project.runtime.model_copy(update={"root": root}))
        assert num_computed(moved) == {}
        for ref in stages(moved).values():
            assert all(Path(shard.path).is_relative_to(root) for shard in ref.shards)
    finally:
        away.rename(project.root)


def test_nights_go_on_in_a_storage(finished, remote, bucket, tmp_path):
    project, _ = finished
    text = "Later: He sold 4 plums and 2 figs on a Friday."
    (tmp_path / "later.jsonl").write_text(json.dumps({"text": text}))
    corpus = project.config.corpus
    sources = (*corpus.sources, str(tmp_path / "later.jsonl"))
    config = project.config.model_copy(
        update={"corpus": corpus.model_copy(update={"sources": sources})}
    )
    manifests = annotate(config, remote[1], add=True)
    assert len(stages(manifests)["corpus", "all"].shards) == NUM_SHARDS + 1
    assert set(num_computed(manifests).values()) == {1}


def test_plan_reads_a_remote_run(remote, invoke):
    code, output, errors = invoke("plan", "--documents", "1000", "--from", remote[1].root, "--json")
    assert code == 0, errors
    assert json.loads(output)


def test_finetune_and_evaluate_of_a_remote_run(project, remote, invoke, tmp_path):
    code, _, errors = invoke("finetune", "--data", remote[1].root, "--out", tmp_path / "tuned")
    assert code == 0, errors
    code, _, errors = invoke(
        *("evaluate", "--model", tmp_path / "tuned" / "model", "--benchmark", "word_problems"),
        *("--limit", "2", "--out", tmp_path / "answers"),
        *("--storage", f"{remote[1].storage}/answers"),
    )
    assert code == 0, errors
    assert not list((tmp_path / "answers").rglob("*.parquet"))


def test_missing_bucket_is_one_line(project, invoke, tmp_path):
    code, _, errors = invoke(
        *("annotate", "--config", project.config_file, "--out", tmp_path / "run"),
        *("--storage", "s3://no-such-bucket/shards"),
    )
    assert code == 2
    assert errors.count("\n") == 1
    assert "storage s3://no-such-bucket/shards/" in errors
    assert "bucket does not exist; expected a bucket or folder that exists" in errors
    assert not (tmp_path / "run").exists()
