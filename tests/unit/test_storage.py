"""Files of a storage: whole or not there, and errors that say whether to try again."""

import dataclasses
import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.builders import document
from toolformer_core.errors import ConfigError, ShardIntegrityError
from toolformer_core.records import Document
from toolformer_core.shards import (
    is_intact,
    read_footer,
    read_shard,
    relocated,
    shard_folder,
    write_shard,
)
from toolformer_core.storage import (
    check_storage,
    file_size,
    file_system,
    normal_folder,
    read_bytes,
    temporary_path,
    write_bytes,
)


@pytest.fixture(params=["path", "file", "memory"])
def base(request, tmp_path):
    """A folder of each kind that needs no server."""
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}"
    return normal_folder(f"file://{tmp_path}/a" if request.param == "file" else f"{tmp_path}/a")


def write(base, rows=2, fingerprint="f", name="part-00000.parquet"):
    folder = shard_folder(base, "corpus", "all", fingerprint)
    records = [document(document_id=str(n)) for n in range(rows)]
    return write_shard(records, Document, f"{folder}/{name}", shard_index=0, counts={})


def test_shard_comes_back_from_a_storage(base):
    ref = write(base)
    assert ref.path == f"{base}/corpus/all/f/part-00000.parquet"
    assert [row.document_id for row in read_shard(ref, Document)] == ["0", "1"]
    assert is_intact(ref)
    assert read_footer(ref.path).num_rows == 2
    assert file_size(ref.path) == len(read_bytes(ref.path))


def test_footer_that_is_longer_than_most_is_read(base):
    columns = {f"column{n}": pa.array([n]) for n in range(1500)}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    write_bytes(f"{base}/wide.parquet", sink.getvalue().to_pybytes())
    footer = read_footer(f"{base}/wide.parquet")
    assert footer.serialized_size > 64 * 1024
    assert footer.num_columns == 1500


@pytest.mark.parametrize(("last", "expected"), [(None, b"abc"), (2, b"bc"), (9, b"abc")])
def test_read_bytes_gives_the_last_ones(base, last, expected):
    write_bytes(f"{base}/file", b"abc")
    assert read_bytes(f"{base}/file", last) == expected


def test_shard_is_replaced_as_a_whole(base):
    first, second = write(base), write(base, rows=3)
    assert not is_intact(first)
    assert len(read_shard(second, Document)) == 3


def test_shard_that_is_gone_or_cut_is_not_intact(base):
    ref = write(base)
    gone = dataclasses.replace(ref, path=f"{base}/corpus/all/f/part-00001.parquet")
    assert not is_intact(gone)
    with pytest.raises(ShardIntegrityError, match=r"part-00001\.parquet is gone"):
        read_shard(gone, Document)
    write_bytes(ref.path, read_bytes(ref.path)[:-5])
    assert not is_intact(ref)
    with pytest.raises(ShardIntegrityError, match=r"part-00000\.parquet cannot be read"):
        read_shard(ref, Document)


def test_shard_that_cannot_be_made_leaves_the_old_one(base):
    ref = write(base)
    with pytest.raises(pa.ArrowException):
        write_shard([document(text=7)], Document, ref.path, shard_index=0, counts={})
    assert is_intact(ref)


def test_temporary_path_is_nobody_elses_and_found_by_gc(tmp_path):
    names = [temporary_path(tmp_path / "a" / "part.parquet") for _ in range(2)]
    assert names[0] != names[1]
    (tmp_path / "a").mkdir()
    for name in names:
        name.touch()
    assert sorted(tmp_path.glob("**/.*.tmp")) == sorted(names)


def test_check_storage_of_a_folder_that_can_be_written_says_nothing(base):
    check_storage(base)
    check_storage(base)


def test_check_storage_where_a_file_is_in_the_way_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"storage .*/file/shards: cannot be written \(.*Not a"):
        check_storage(f"{tmp_path}/file/shards")


@pytest.mark.parametrize(
    ("url", "reason"),
    [("zz://bucket/a", "Protocol not known: zz"), ("dropbox://a/b", "install")],
)
def test_check_storage_of_a_protocol_that_is_not_there_is_refused(url, reason):
    expected = rf"storage {url}/.*{reason}.*s3://BUCKET/PREFIX.*toolformer-prefect\[s3\]"
    with pytest.raises(ConfigError, match=expected):
        check_storage(url)


def test_normal_folder_is_a_url_or_an_absolute_path():
    assert normal_folder("s3://bucket/a/") == "s3://bucket/a"
    assert normal_folder("file:///a/b/") == normal_folder("/a/b") == "/a/b"
    assert normal_folder("s3://") == "s3://"
    assert normal_folder("a/b") == str(Path("a/b").absolute())


def test_file_system_trusts_no_listing_of_its_own():
    assert file_system("memory://a")[0].storage_options == {"use_listings_cache": False}


def test_relocated_finds_a_shard_below_another_base(tmp_path, base):
    ref = write(str(tmp_path / "old"))
    assert relocated(ref, base) == ref  # it is not there
    copy = write(base)
    assert relocated(ref, base) == copy == relocated(copy, base)
    assert relocated(write(str(tmp_path / "old"), rows=3), base).path.startswith(f"{tmp_path}/old")
