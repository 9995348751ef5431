"""Shards come back as they were written, or not at all."""

import dataclasses
import json
import math
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.builders import (
    RECORD_TYPES,
    augmented_document,
    document,
    evaluated_call,
    evaluated_item,
    executed_call,
    filter_decision,
    proposed_call,
    quarantined_row,
    scored_call,
)
from toolformer_core.errors import ShardIntegrityError
from toolformer_core.records import (
    AugmentedDocument,
    Document,
    DropReason,
    ExecutedCall,
    ProposedCall,
    ScoredCall,
)
from toolformer_core.shards import (
    ShardRef,
    StageRef,
    arrow_schema,
    content_digest,
    is_intact,
    read_manifest,
    read_shard,
    stage_folder,
    total_counts,
    write_manifest,
    write_shard,
)

RECORDS = {
    "corpus": [document(), document(url=None, date=None, text="\U0001f600 \u00e9\n\t")],
    "quarantine": [quarantined_row()],
    "sample": [proposed_call(), proposed_call(drop_reason=DropReason.LOOK_AHEAD)],
    "execute": [executed_call()],
    "score": [scored_call(), scored_call(is_right=None, loss_reduction=-0.0)],
    "filter": [filter_decision(), filter_decision(is_right=False)],
    "augment": [augmented_document(), augmented_document(calls=())],
    "evaluate": [
        evaluated_item(),
        evaluated_item(gold=(), calls=(evaluated_call(), evaluated_call())),
    ],
}


def write(folder, records, record_type, shard_index=0, **counts):
    path = folder / f"part-{shard_index:05d}.parquet"
    return write_shard(records, record_type, path, shard_index=shard_index, counts=counts)


@pytest.mark.parametrize("stage", sorted(RECORD_TYPES))
def test_read_shard_gives_the_records_written(tmp_path, stage):
    ref = write(tmp_path, RECORDS[stage], RECORD_TYPES[stage])
    assert read_shard(ref, RECORD_TYPES[stage]) == RECORDS[stage]


def test_read_shard_enum_comes_back_as_enum(tmp_path):
    ref = write(tmp_path, RECORDS["sample"], ProposedCall)
    assert read_shard(ref, ProposedCall)[1].drop_reason is DropReason.LOOK_AHEAD


@pytest.mark.parametrize("stage", sorted(RECORD_TYPES))
def test_read_shard_without_rows_is_empty(tmp_path, stage):
    ref = write(tmp_path, [], RECORD_TYPES[stage])
    assert (ref.num_rows, read_shard(ref, RECORD_TYPES[stage])) == (0, [])


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_read_shard_loss_that_is_no_number_survives(tmp_path, loss):
    ref = write(tmp_path, [scored_call(loss_reduction=loss)], ScoredCall)
    [record] = read_shard(ref, ScoredCall)
    assert str(record.loss_reduction) == str(loss)


def test_read_shard_missing_file_raises(tmp_path):
    ref = write(tmp_path, [document()], Document)
    (tmp_path / "part-00000.parquet").unlink()
    with pytest.raises(ShardIntegrityError, match=r"part-00000\.parquet is gone; run again"):
        read_shard(ref, Document)


def test_read_shard_with_other_content_raises(tmp_path):
    ref = write(tmp_path, [document()], Document)
    write(tmp_path, [document(text="another text")], Document)
    with pytest.raises(ShardIntegrityError, match=f"expected {ref.digest}; delete the file"):
        read_shard(ref, Document)


def test_read_shard_of_another_record_type_raises(tmp_path):
    ref = write(tmp_path, [document()], Document)
    with pytest.raises(ShardIntegrityError, match="cannot be read"):
        read_shard(ref, ProposedCall)


@pytest.mark.parametrize("keep_bytes", [0, 3, 100, -1])
def test_read_shard_cut_file_raises(tmp_path, keep_bytes):
    ref = write(tmp_path, [document()], Document)
    path = tmp_path / "part-00000.parquet"
    path.write_bytes(path.read_bytes()[:keep_bytes])
    with pytest.raises(ShardIntegrityError, match="cannot be read"):
        read_shard(ref, Document)


@pytest.mark.parametrize("foreign", [b"bytes", "a text where a call belongs"])
def test_read_shard_with_columns_of_other_types_raises(tmp_path, foreign):
    ref = write(tmp_path, [augmented_document()], AugmentedDocument)
    row = dataclasses.asdict(augmented_document()) | {"calls": [foreign]}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "part-00000.parquet")
    with pytest.raises(ShardIntegrityError, match="cannot be read"):
        read_shard(ref, AugmentedDocument)


@pytest.mark.parametrize("column", ["document_id", "original_text"])
def test_read_shard_with_bytes_for_text_raises(tmp_path, column):
    ref = write(tmp_path, [augmented_document()], AugmentedDocument)
    row = dataclasses.asdict(augmented_document()) | {column: b"bytes"}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "part-00000.parquet")
    with pytest.raises(ShardIntegrityError, match="cannot be read"):
        read_shard(ref, AugmentedDocument)


def test_read_shard_with_any_flipped_byte_is_unchanged_or_raises(tmp_path):
    records = [augmented_document(), augmented_document(calls=())]
    ref = write(tmp_path, records, AugmentedDocument)
    path = tmp_path / "part-00000.parquet"
    content = path.read_bytes()
    num_refused = 0
    for at in range(0, len(content), 9):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
        try:
            assert read_shard(ref, AugmentedDocument) == records
        except ShardIntegrityError:
            num_refused += 1
    assert num_refused > 0


def test_write_shard_leaves_no_temporary_file(tmp_path):
    write(tmp_path, [document()], Document)
    assert [path.name for path in tmp_path.iterdir()] == ["part-00000.parquet"]


def test_write_shard_that_fails_leaves_the_old_file(tmp_path):
    ref = write(tmp_path, [document()], Document)
    with pytest.raises(pa.ArrowException):
        write(tmp_path, [document(text=7)], Document)
    assert read_shard(ref, Document) == [document()]


def test_write_shard_makes_the_folder(tmp_path):
    ref = write(tmp_path / "a" / "b", [document()], Document)
    assert is_intact(ref)


def test_write_shard_carries_index_rows_and_counts(tmp_path):
    ref = write(tmp_path, [document(), document()], Document, shard_index=3, documents=2)
    assert (ref.shard_index, ref.num_rows, ref.counts) == (3, 2, {"documents": 2})


def test_content_digest_ignores_volatile_fields():
    fast, slow = executed_call(latency_seconds=0.1), executed_call(latency_seconds=9.0)
    assert content_digest([fast]) == content_digest([slow])


@pytest.mark.parametrize(
    "other",
    [
        [executed_call(result="92")],
        [executed_call(), executed_call()],
        [],
        [executed_call(loss_without_call=math.nextafter(3.0, 4.0))],
    ],
)
def test_content_digest_differs_with_the_content(other):
    assert content_digest(other) != content_digest([executed_call()])


def test_content_digest_depends_on_the_order():
    first, second = document(text="a"), document(text="b")
    assert content_digest([first, second]) != content_digest([second, first])


def test_is_intact_missing_file_is_not(tmp_path):
    ref = write(tmp_path, [document()], Document)
    (tmp_path / "part-00000.parquet").unlink()
    assert not is_intact(ref)


def test_is_intact_cut_file_is_not(tmp_path):
    ref = write(tmp_path, [document()], Document)
    path = tmp_path / "part-00000.parquet"
    path.write_bytes(path.read_bytes()[:-5])
    assert not is_intact(ref)


def test_is_intact_file_with_other_rows_is_not(tmp_path):
    ref = write(tmp_path, [document()], Document)
    write(tmp_path, [document(), document()], Document)
    assert not is_intact(ref)


def test_arrow_schema_only_optional_fields_are_nullable():
    schema = arrow_schema(ExecutedCall)
    assert not any(field.nullable for field in schema)
    nullable = {field.name for field in arrow_schema(Document) if field.nullable}
    assert nullable == {"url", "date"}


def test_arrow_schema_types_follow_the_annotations():
    schema = arrow_schema(AugmentedDocument)
    assert schema.field("original_text").type == pa.string()
    assert schema.field("calls").type.value_type.field("start").type == pa.int64()


def shard(digest="d", shard_index=0, **counts):
    return ShardRef(path="/p", digest=digest, num_rows=1, shard_index=shard_index, counts=counts)


def stage(*shards, **fields):
    return StageRef(stage="sample", tool="Calculator", fingerprint="f", shards=shards, **fields)


def test_total_counts_are_summed_over_shards():
    shards = (shard(kept=2, not_closed=1), shard(shard_index=1, kept=3, malformed=4))
    assert total_counts(stage(*shards)) == {"kept": 5, "not_closed": 1, "malformed": 4}


def test_stage_digest_depends_on_the_content_in_order():
    a, b = shard("a"), shard("b", shard_index=1)
    assert stage(a, b).digest != stage(b, a).digest


def test_stage_digest_ignores_what_came_from_the_cache():
    assert stage(shard(), num_cached=1).digest == stage(shard()).digest


def test_read_manifest_gives_the_stage_written(tmp_path):
    written = stage(shard(kept=2), shard("e", shard_index=1), num_cached=1)
    path = write_manifest(written, tmp_path, {"git_commit": "abc"})
    assert path == stage_folder(tmp_path, "sample", "Calculator", "f") / "manifest.json"
    assert read_manifest(path) == written


def written_stage(root, base, text="Some text."):
    """The manifest in ROOT of one shard below a base."""
    folder = stage_folder(base, "corpus", "all", "f")
    ref = write(folder, [document(text=text)], Document)
    corpus = StageRef(stage="corpus", tool="all", fingerprint="f", shards=(ref,))
    return write_manifest(corpus, root, {}), ref


def texts(manifest):
    return [row.text for ref in read_manifest(manifest).shards for row in read_shard(ref, Document)]


def test_read_manifest_of_a_copy_takes_the_shards_of_the_copy(tmp_path):
    manifest, ref = written_stage(tmp_path / "old", tmp_path / "old")
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    write(stage_folder(tmp_path / "old", "corpus", "all", "f"), [document(text="Other.")], Document)
    copy = tmp_path / "new" / manifest.relative_to(tmp_path / "old")
    assert texts(copy) == ["Some text."]
    [found] = read_manifest(copy).shards
    assert found.path == ref.path.replace("/old/", "/new/")


def test_read_manifest_of_a_storage_does_not_take_what_else_lies_in_the_root(tmp_path):
    written_stage(tmp_path / "run", tmp_path / "run", "Of an earlier run without the storage.")
    manifest, ref = written_stage(tmp_path / "run", tmp_path / "storage")
    assert texts(manifest) == ["Some text."]
    assert read_manifest(manifest).shards == (ref,)


def test_read_manifest_with_absolute_paths_finds_its_shards_where_they_are(tmp_path):
    manifest, ref = written_stage(tmp_path / "old", tmp_path / "old")
    content = json.loads(manifest.read_text())
    content["shards"][0]["path"] = ref.path
    manifest.write_text(json.dumps(content))
    assert read_manifest(manifest).shards == (ref,)
    (tmp_path / "old").rename(tmp_path / "new")
    assert texts(tmp_path / "new" / manifest.relative_to(tmp_path / "old")) == ["Some text."]


def test_read_manifest_leaves_the_url_of_a_storage(tmp_path):
    _, ref = written_stage(tmp_path, tmp_path)
    remote = dataclasses.replace(ref, path="memory://away/corpus/all/f/part-00000.parquet")
    corpus = StageRef(stage="corpus", tool="all", fingerprint="f", shards=(remote,))
    assert read_manifest(write_manifest(corpus, tmp_path, {})).shards == (remote,)


def test_write_manifest_holds_details_and_total_counts(tmp_path):
    written = stage(shard(kept=2), shard("e", shard_index=1, kept=1))
    content = json.loads(write_manifest(written, tmp_path, {"git_commit": "abc"}).read_text())
    assert (content["git_commit"], content["counts"]) == ("abc", {"kept": 3})


def test_stage_folder_is_stage_tool_fingerprint(tmp_path):
    assert stage_folder(tmp_path, "score", "QA", "f") == tmp_path / "score" / "QA" / "f"
