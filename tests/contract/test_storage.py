"""Shards, results and index on an S3 server, and where a folder has been moved or copied.

The task is made with `shard_task` like the real ones; the whole pipeline on such a server is in
tests/end_to_end/test_storage.py.
"""

from pathlib import Path

import fsspec
import pytest
from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from flows.starting.inputs import build_runtime
from tasks.index import build, query
from tasks.running.policies import Location, run_one, run_shards, shard_task
from tasks.running.results import lock_folder, placed, result_storage
from tests.support import object_store
from tests.support.builders import CallStory, document, pipeline_config, write_annotation
from toolformer_core.config.pipeline import CorpusConfig
from toolformer_core.config.runtime import Place, Runtime
from toolformer_core.corpus import CorpusShards, write_corpus
from toolformer_core.errors import ConfigError, ShardIntegrityError, TransientStorageError
from toolformer_core.finetune import FinetuneResult
from toolformer_core.models import ModelRef
from toolformer_core.records import Document
from toolformer_core.shards import ShardRef, is_intact, read_shard, shard_folder, write_shard
from toolformer_core.storage import check_storage, file_system, read_bytes, write_bytes

RUNS: list[int] = []  # shard_index of every execution


@shard_task("numbered", 1)
def numbered_shard(shard_index: int, location: Location) -> ShardRef:
    RUNS.append(shard_index)
    rows = [document(document_id=str(shard_index))]
    path = f"{location.folder}/part-{shard_index:05d}.parquet"
    return write_shard(rows, Document, path, shard_index=shard_index, counts={})


def run(runtime, num_shards=3) -> list[ShardRef]:
    """The shards; RUNS tells which of them were computed."""
    folder = shard_folder(runtime.shard_root, "numbered", "all", "f")
    location = Location(folder=folder, runtime=runtime)
    calls = [{"shard_index": n, "location": location} for n in range(num_shards)]
    names = [f"numbered-{n}" for n in range(num_shards)]

    @flow(name="numbered", task_runner=ThreadPoolTaskRunner(max_workers=1))
    def numbered():
        return run_shards(numbered_shard, calls, runtime=runtime, names=names, is_intact=is_intact)

    RUNS.clear()
    refs, num_cached = numbered()
    assert num_cached == num_shards - len(RUNS)
    assert [ref.path for ref in refs] == [f"{folder}/part-{n:05d}.parquet" for n in range(3)]
    assert [read_shard(ref, Document)[0].document_id for ref in refs] == ["0", "1", "2"]
    return refs


@pytest.fixture(scope="module")
def bucket():
    with object_store.bucket() as name:
        yield name


@pytest.fixture
def runtime(request, bucket, prefect_server, tmp_path):
    """Of a run whose shards lie on the server, below the test's name."""
    return build_runtime(tmp_path / "run", Place(storage=f"s3://{bucket}/{request.node.name}/"))


@pytest.fixture
def afresh(bucket, monkeypatch):
    """Clients that look at the environment of the test, and at nothing twice."""
    object_store.forget_clients()
    monkeypatch.setattr(fsspec.get_filesystem_class("s3"), "retries", 1)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    yield
    object_store.forget_clients()


def test_second_machine_computes_nothing_and_first_only_what_is_lost(runtime, tmp_path):
    shards = run(runtime)
    assert RUNS == [0, 1, 2]
    assert run(runtime.model_copy(update={"root": tmp_path / "other"})) == shards
    assert RUNS == []
    assert not list(tmp_path.glob("**/*.parquet"))
    system, path = file_system(shards[1].path)
    system.rm_file(path)
    with pytest.raises(ShardIntegrityError, match=r"part-00001\.parquet is gone; run again"):
        read_shard(shards[1], Document)
    assert run(runtime) == shards
    assert RUNS == [1]


def test_results_are_found_by_whoever_reads_a_state(runtime):
    """A block that the server knows: the state names it, and a key below it."""
    block = result_storage(runtime)
    assert block.basepath == f"{runtime.storage}/results"
    assert block._block_document_id is not None


def test_local_folder_copied_to_a_storage_is_found_there(runtime):
    run(runtime.model_copy(update={"storage": ""}))
    fsspec.filesystem("s3").put(f"{runtime.root}/", runtime.storage, recursive=True)
    run(runtime)
    assert RUNS == []


def test_folder_that_was_moved_is_found(prefect_server, tmp_path):
    run(Runtime(root=tmp_path / "old"))
    (tmp_path / "old").rename(tmp_path / "new")
    run(Runtime(root=tmp_path / "new"))
    assert RUNS == []
    run(Runtime(root=tmp_path / "new"))
    assert RUNS == []


@shard_task("corpus-like", 1)
def corpus_like(config: CorpusConfig, location: Location) -> CorpusShards:
    RUNS.append(-1)
    return write_corpus(config, location.folder)


def test_corpus_of_a_folder_that_was_moved_is_found(prefect_server, tmp_path):
    (tmp_path / "texts.txt").write_text("Some words that are long enough to be a document.")
    config = CorpusConfig(sources=(str(tmp_path / "texts.txt"),), min_document_chars=10)

    @flow(name="corpus-like", task_runner=ThreadPoolTaskRunner(max_workers=1))
    def corpus(runtime):
        folder = shard_folder(runtime.shard_root, "corpus", "all", "f")
        call = {"config": config, "location": Location(folder=folder, runtime=runtime)}
        whole = lambda found: all(map(is_intact, (*found.documents, found.quarantine)))  # noqa: E731
        return run_one(corpus_like, call, runtime=runtime, name="corpus-0", is_intact=whole)

    RUNS.clear()
    corpus(Runtime(root=tmp_path / "old"))
    (tmp_path / "old").rename(tmp_path / "new")
    found, is_cached = corpus(Runtime(root=tmp_path / "new"))
    assert (is_cached, RUNS) == (True, [-1])
    for ref in (*found.documents, found.quarantine):
        assert ref.path.startswith(f"{tmp_path}/new/corpus/all/f/")


def tuned(folder) -> FinetuneResult:
    model = ModelRef(path=str(folder), digest="d", dtype="float32")
    return FinetuneResult(model=model, num_train=1, num_dev=0, chosen_step=1, curves={})


@pytest.mark.parametrize("is_there", [True, False])
def test_tuned_model_of_a_folder_that_was_copied_is_that_of_the_copy(tmp_path, is_there):
    old, new = (tmp_path / name / "finetune/all/f/model" for name in ("old", "new"))
    old.mkdir(parents=True)
    if is_there:
        new.mkdir(parents=True)
    found = placed(tuned(old), Runtime(root=tmp_path / "new"))
    assert found == tuned(new if is_there else old)
    assert placed(found, Runtime(root=tmp_path / "old")) == tuned(old)


def test_locks_lie_beside_the_shards_or_in_the_root(prefect_server, tmp_path):
    shared = Runtime(root=tmp_path / "run", storage=str(tmp_path / "storage"))
    run(shared)
    assert len(list((tmp_path / "storage/locks").glob("*.lock"))) == len(RUNS)
    assert not shared.root.exists()
    for storage in ("", "s3://bucket/shards"):
        runtime = shared.model_copy(update={"storage": storage})
        assert lock_folder(runtime) == shared.root / "locks"


def test_index_of_shards_on_a_server_is_that_of_local_ones(runtime, tmp_path):
    stories = [CallStory(candidate_id="kept"), CallStory(candidate_id="b", losses=(2.0, 2.5, 1.75))]
    config = pipeline_config("tools.enabled=[Calculator]")
    found = []
    sql = "SELECT * FROM candidates ORDER BY candidate_id"
    for base in (str(tmp_path / "local"), runtime.storage):
        stages = write_annotation(base, [document(document_id="document-0")], stories)
        build.build_index(stages, config, tmp_path / "calls.duckdb")
        found.append(query.select(tmp_path / "calls.duckdb", sql))
    assert found[0] == found[1]
    assert len(found[0]) == 2


def test_index_of_shards_that_cannot_be_reached_is_an_outage(afresh, bucket, monkeypatch, tmp_path):
    stages = write_annotation(f"s3://{bucket}/away", [document()], [CallStory(candidate_id="a")])
    object_store.forget_clients()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(TransientStorageError, match=r"Could not connect.*run again"):
        build.build_index(stages, pipeline_config(), tmp_path / "calls.duckdb")


def test_storage_in_a_bucket_that_is_not_there_is_refused(bucket, tmp_path):
    with pytest.raises(ConfigError, match="bucket does not exist; expected a bucket or folder"):
        build_runtime(tmp_path / "run", Place(storage="s3://no-such-bucket/shards"))


@pytest.mark.parametrize("url", ["s3://No Such Bucket/shards", "s3://", "s3:///shards"])
def test_storage_with_a_name_that_no_bucket_has_is_refused(bucket, url):
    with pytest.raises(ConfigError, match=f"storage {url}"):
        build_runtime(Path("run"), Place(storage=url))


def test_end_of_a_file_on_a_server_is_read(bucket):
    write_bytes(f"s3://{bucket}/file", b"abc")
    assert [read_bytes(f"s3://{bucket}/file", last) for last in (2, 9)] == [b"bc", b"abc"]


def test_damaged_shard_on_a_server_is_not_intact(bucket):
    ref = ShardRef(path=f"s3://{bucket}/x", digest="", num_rows=1, shard_index=0, counts={})
    for content in (b"", b"no Parquet", b"PAR1" + bytes(40) + b"\x14\0\0\0PAR1"):
        write_bytes(ref.path, content)
        assert not is_intact(ref)


def test_storage_without_credentials_is_refused(afresh, bucket, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(ConfigError, match="Unable to locate credentials; expected a bucket"):
        check_storage(f"s3://{bucket}/shards")


def test_storage_that_is_away_is_an_outage(afresh, bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(TransientStorageError, match=r"Could not connect.*run again"):
        check_storage(f"s3://{bucket}/shards")
