"""The corpus stage: counts, limits, samples, shards and the identity of a corpus."""

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from toolformer_core.config.pipeline import CorpusConfig
from toolformer_core.corpus import CorpusShards, corpus_digest, read_corpus, write_corpus
from toolformer_core.errors import ConfigError, CorpusError
from toolformer_core.records import Document, QuarantinedRow, digest
from toolformer_core.shards import ShardRef, read_shard

LONG = "This sentence has exactly forty-two chars. "
assert len(LONG) == 43


def json_file(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def numbered(count: int) -> list[str]:
    return [f"Document number {number} is long enough to count as one." for number in range(count)]


def documents_of(config: CorpusConfig) -> list[Document]:
    return [item for item in read_corpus(config) if isinstance(item, Document)]


def settings(*sources: str, **changes: object) -> CorpusConfig:
    return CorpusConfig.model_validate({"sources": sources, **changes})


def test_read_corpus_document_has_digest_source_and_no_folder(tmp_path: Path) -> None:
    row = {"text": f" {LONG}\r\n", "url": "http://a", "date": "2020-02-03T00:00", "title": "T"}
    (tmp_path / "x.jsonl").write_text(json.dumps(row))
    assert documents_of(settings(f"{tmp_path}/x.jsonl")) == [
        Document(
            document_id=digest(LONG.strip(), "http://a", "2020-02-03"),
            text=LONG.strip(),
            url="http://a",
            date="2020-02-03",
            source="x.jsonl",
        )
    ]


def test_read_corpus_counts_add_up(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(
        "\n".join(
            [
                json.dumps({"text": LONG}),
                json.dumps({"text": LONG}),  # duplicate
                json.dumps({"text": LONG, "url": "other"}),  # the same text, another document
                json.dumps({"text": "Short."}),
                json.dumps({"text": LONG * 3}),  # two passages: two sentences, then one seen before
                "not json",
                "[]",
                "{}",
            ]
        )
    )
    counts: Counter[str] = Counter()
    config = settings(f"{tmp_path}/x.jsonl", max_document_chars=100)
    items = list(read_corpus(config, counts))
    assert counts == {
        "rows": 8,
        "quarantined:bad_json": 1,
        "quarantined:not_an_object": 1,
        "quarantined:no_text": 1,
        "passages": 6,
        "documents": 3,
        "duplicate": 2,
        "too_short": 1,
    }
    assert [item.row_number for item in items if isinstance(item, QuarantinedRow)] == [6, 7, 8]


def test_read_corpus_passages_keep_url_and_date(tmp_path: Path) -> None:
    row = {"text": "\n\n".join(numbered(5)), "url": "http://a", "date": "2020-02-03"}
    (tmp_path / "x.jsonl").write_text(json.dumps(row))
    found = documents_of(settings(f"{tmp_path}/x.jsonl", max_document_chars=120))
    first, second, third, fourth, fifth = numbered(5)
    assert [document.text for document in found] == [
        f"{first}\n\n{second}",
        f"{third}\n\n{fourth}",
        fifth,
    ]
    assert {(document.url, document.date) for document in found} == {("http://a", "2020-02-03")}


def test_read_corpus_limit_is_per_source(tmp_path: Path) -> None:
    first = json_file(tmp_path / "a.jsonl", numbered(5))
    second = json_file(tmp_path / "b.jsonl", numbered(8))
    found = documents_of(settings(first, second, max_documents=2))
    texts = numbered(8)
    assert [document.text for document in found] == [texts[0], texts[1], texts[2], texts[3]]


def test_read_corpus_limit_stops_reading(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl.gz"
    content = gzip.compress("".join(json.dumps({"text": t}) + "\n" for t in numbered(9)).encode())
    path.write_bytes(content[:-8])  # would be quarantined at the end
    counts: Counter[str] = Counter()
    items = list(read_corpus(settings(str(path), max_documents=3), counts))
    assert len(items) == 3
    assert counts == {"rows": 3, "passages": 3, "documents": 3}


def test_read_corpus_sample_is_the_smallest_digests_in_original_order(tmp_path: Path) -> None:
    texts = numbered(50)
    path = json_file(tmp_path / "x.jsonl", texts)
    ids = {text: digest(text, None, None) for text in texts}
    smallest = sorted(texts, key=lambda text: digest(7, ids[text]))[:10]
    counts: Counter[str] = Counter()
    config = settings(path, max_documents=10, sample_seed=7)
    found = [item.text for item in read_corpus(config, counts) if isinstance(item, Document)]
    assert found == [text for text in texts if text in smallest]
    assert counts == {"rows": 50, "passages": 50, "documents": 10, "not_sampled": 40}


def test_read_corpus_sample_does_not_depend_on_order(tmp_path: Path) -> None:
    forth = json_file(tmp_path / "a.jsonl", numbered(50))
    back = json_file(tmp_path / "b.jsonl", numbered(50)[::-1])
    first = documents_of(settings(forth, max_documents=10, sample_seed=1))
    second = documents_of(settings(back, max_documents=10, sample_seed=1))
    assert [d.text for d in first] == [d.text for d in second][::-1]


def test_read_corpus_other_seed_gives_another_sample(tmp_path: Path) -> None:
    path = json_file(tmp_path / "x.jsonl", numbered(50))
    samples = {
        tuple(d.text for d in documents_of(settings(path, max_documents=10, sample_seed=seed)))
        for seed in range(5)
    }
    assert len(samples) == 5


def test_read_corpus_sample_of_few_documents_is_all_and_keeps_bad_rows(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    json_file(path, numbered(3))
    path.write_text("bad\n" + path.read_text())
    items = list(read_corpus(settings(str(path), max_documents=10, sample_seed=1)))
    assert [type(item) for item in items] == [QuarantinedRow, Document, Document, Document]


def test_read_corpus_without_sources_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match=r"corpus\.sources is empty; expected at least one"):
        read_corpus(CorpusConfig())


def test_read_corpus_missing_second_source_is_refused_before_reading(tmp_path: Path) -> None:
    path = json_file(tmp_path / "x.jsonl", numbered(1))
    with pytest.raises(ConfigError, match=r"no file matches '.*none\.jsonl'"):
        read_corpus(settings(path, str(tmp_path / "none.jsonl")))


def test_write_corpus_shards_hold_all_documents_in_order(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    json_file(path, [*numbered(7), "Short."])
    path.write_text(path.read_text() + "bad\n")
    written = write_corpus(settings(str(path), documents_per_shard=3), tmp_path / "out")
    assert [Path(ref.path).name for ref in written.documents] == [
        "part-00000.parquet",
        "part-00001.parquet",
        "part-00002.parquet",
    ]
    assert [ref.shard_index for ref in written.documents] == [0, 1, 2]
    assert [ref.counts for ref in written.documents] == [
        {"documents": 3},
        {"documents": 3},
        {"documents": 1},
    ]
    stored = [d.text for ref in written.documents for d in read_shard(ref, Document)]
    assert stored == numbered(7)


def test_write_corpus_quarantine_carries_the_other_counts(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    json_file(path, [*numbered(2), "Short."])
    path.write_text(path.read_text() + "bad\n")
    written = write_corpus(settings(str(path)), tmp_path / "out")
    assert written.quarantine.counts == {
        "rows": 4,
        "passages": 3,
        "too_short": 1,
        "quarantined:bad_json": 1,
    }
    assert read_shard(written.quarantine, QuarantinedRow) == [
        QuarantinedRow(source="x.jsonl", row_number=4, reason="bad_json", excerpt="bad\n")
    ]


def test_write_corpus_stores_a_bounded_number_of_bad_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolformer_core.corpus.MAX_STORED_QUARANTINED", 2)
    path = tmp_path / "x.jsonl"
    path.write_text("bad\n" * 5 + json.dumps({"text": LONG}))
    written = write_corpus(settings(str(path)), tmp_path / "out")
    assert written.quarantine.num_rows == 2
    assert written.quarantine.counts["quarantined:bad_json"] == 5


def test_write_corpus_twice_gives_the_same_digests(tmp_path: Path) -> None:
    config = settings(json_file(tmp_path / "x.jsonl", numbered(5)), documents_per_shard=2)

    def digests(written: CorpusShards) -> list[str]:
        return [ref.digest for ref in (*written.documents, written.quarantine)]

    first = write_corpus(config, tmp_path / "a")
    assert digests(first) == digests(write_corpus(config, tmp_path / "b"))


def test_write_corpus_of_a_second_night_adds_the_new_documents_alone(tmp_path: Path) -> None:
    path = json_file(tmp_path / "x.jsonl", numbered(5))
    config = settings(path, documents_per_shard=2)
    first = write_corpus(config, tmp_path / "a").documents
    json_file(tmp_path / "x.jsonl", [*numbered(9)[::-1], numbered(9)[7]])  # another order
    second = write_corpus(config, tmp_path / "b", first)
    assert second.documents[:3] == first
    assert [Path(ref.path).name for ref in second.documents[3:]] == [
        "part-00003.parquet",
        "part-00004.parquet",
    ]
    added = [d.text for ref in second.documents[3:] for d in read_shard(ref, Document)]
    assert added == numbered(9)[:4:-1]
    assert second.quarantine.counts == {
        "rows": 10,
        "passages": 10,
        "duplicate": 1,
        "earlier": 5,
        "new": 4,
    }
    assert second.quarantine.counts["new"] == len(added)


@pytest.mark.parametrize("sampled", [{}, {"sample_seed": 3}])
def test_write_corpus_limit_is_of_the_new_documents_of_a_night(
    tmp_path: Path, sampled: dict[str, int]
) -> None:
    config = settings(json_file(tmp_path / "x.jsonl", numbered(7)), max_documents=3, **sampled)
    shards: tuple[ShardRef, ...] = ()
    for night, num_new in enumerate([3, 3, 1, 0]):
        before, written = shards, write_corpus(config, tmp_path / str(night), shards)
        shards, counts = written.documents, written.quarantine.counts
        assert shards[: len(before)] == before
        assert sum(ref.num_rows for ref in shards[len(before) :]) == num_new
        if night:
            assert counts["new"] == num_new
            ends = ("new", "earlier", "not_sampled")
            assert counts["passages"] == sum(counts.get(name, 0) for name in ends)
    stored = [d.text for ref in shards for d in read_shard(ref, Document)]
    assert sorted(stored) == sorted(numbered(7))


def test_write_corpus_keeps_what_the_sources_no_longer_hold(tmp_path: Path) -> None:
    path = json_file(tmp_path / "x.jsonl", numbered(3))
    first = write_corpus(settings(path), tmp_path / "a").documents
    json_file(tmp_path / "x.jsonl", numbered(4)[2:])
    second = write_corpus(settings(path), tmp_path / "b", first)
    assert [d.text for r in second.documents for d in read_shard(r, Document)] == numbered(4)


def test_write_corpus_without_new_documents_writes_no_shard_of_them(tmp_path: Path) -> None:
    config = settings(json_file(tmp_path / "x.jsonl", numbered(3)))
    first = write_corpus(config, tmp_path / "a").documents
    assert write_corpus(config, tmp_path / "b", first).documents == first
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["quarantine.parquet"]


def test_write_corpus_of_an_emptied_inbox_keeps_what_is_there(tmp_path: Path) -> None:
    path = json_file(tmp_path / "x.jsonl", numbered(3))
    config = settings(f"{tmp_path}/*.jsonl")
    first = write_corpus(config, tmp_path / "a").documents
    Path(path).write_text("")
    assert write_corpus(config, tmp_path / "b", first).documents == first
    Path(path).unlink()
    last = write_corpus(config, tmp_path / "c", first)
    assert last.documents == first
    assert last.quarantine.counts == {"new": 0}


def test_write_corpus_of_a_file_that_is_not_there_is_refused_also_later(tmp_path: Path) -> None:
    config = settings(json_file(tmp_path / "x.jsonl", numbered(3)))
    first = write_corpus(config, tmp_path / "a").documents
    (tmp_path / "x.jsonl").unlink()
    with pytest.raises(ConfigError, match="no file matches"):
        write_corpus(config, tmp_path / "b", first)


def test_corpus_digest_follows_the_earlier_shards(tmp_path: Path) -> None:
    config = settings(json_file(tmp_path / "x.jsonl", numbered(3)), documents_per_shard=2)
    first = write_corpus(config, tmp_path / "a").documents
    digests = {corpus_digest(config, earlier) for earlier in ((), first, first[:1])}
    assert len(digests) == 3
    assert corpus_digest(config) == corpus_digest(config, ())


def test_write_corpus_without_usable_document_says_why_and_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('bad\nworse\n{"body": ""}\n{"text": "Short."}\n')
    with pytest.raises(
        CorpusError,
        match=r"x\.jsonl holds no usable document: 3 rows quarantined \(bad_json 2, no_text 1\); "
        r"1 passages shorter than min_document_chars 40 \(lower it to use them\); "
        r"expected rows with a field 'text'",
    ):
        write_corpus(settings(str(path)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_write_corpus_of_an_empty_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("")
    with pytest.raises(CorpusError, match="holds no usable document: no rows"):
        write_corpus(settings(f"{tmp_path}/x.jsonl"), tmp_path / "out")


def test_corpus_digest_is_stable_and_follows_the_settings(tmp_path: Path) -> None:
    path = json_file(tmp_path / "x.jsonl", numbered(2))
    assert corpus_digest(settings(path)) == corpus_digest(settings(path))
    assert corpus_digest(settings(path)) != corpus_digest(settings(path, max_documents=1))


def test_corpus_digest_follows_the_content_of_the_files(tmp_path: Path) -> None:
    path = json_file(tmp_path / "x.jsonl", ["aaaa"])
    before = corpus_digest(settings(path))
    json_file(tmp_path / "x.jsonl", ["bbbb"])  # the same length
    assert corpus_digest(settings(path)) != before


def test_corpus_digest_follows_the_files_that_match(tmp_path: Path) -> None:
    json_file(tmp_path / "a.jsonl", ["aaaa"])
    before = corpus_digest(settings(f"{tmp_path}/*.jsonl"))
    json_file(tmp_path / "b.jsonl", ["bbbb"])
    assert corpus_digest(settings(f"{tmp_path}/*.jsonl")) != before


def test_corpus_digest_without_sources_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"corpus\.sources is empty"):
        corpus_digest(CorpusConfig())
