"""Every kind of source, and every reason for which a row is quarantined."""

import bz2
import gzip
import io
import json
import lzma
import re
import sys
import tracemalloc
from datetime import date, datetime
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from toolformer_core.config.tools import WIKIPEDIA_SAMPLE
from toolformer_core.errors import ConfigError, TransientStorageError
from toolformer_core.readers.files import FileSource, InputFile
from toolformer_core.readers.generated import open_generated
from toolformer_core.readers.hub import open_hub
from toolformer_core.readers.lines import read_json_lines, read_paragraphs
from toolformer_core.readers.mediawiki import article_url, read_dump
from toolformer_core.readers.passages import cut_passages
from toolformer_core.readers.rows import Row, TextRow, clean_text, iso_day, row_from_fields
from toolformer_core.readers.source import open_source
from toolformer_core.readers.wikitext import plain_text
from toolformer_core.records import QuarantinedRow

MAX_ROW_BYTES = 10_000


def rows_of(source: str | Path, max_row_bytes: int = MAX_ROW_BYTES) -> list[Row]:
    return list(open_source(str(source)).rows(max_row_bytes))


def json_rows(content: bytes, max_row_bytes: int = MAX_ROW_BYTES) -> list[Row]:
    return list(read_json_lines(io.BytesIO(content), "x.jsonl", max_row_bytes))


def texts(rows: list[Row]) -> list[str]:
    return [row.text for row in rows if isinstance(row, TextRow)]


def reasons(rows: list[Row]) -> list[tuple[int, str]]:
    return [(row.row_number, row.reason) for row in rows if isinstance(row, QuarantinedRow)]


# JSON Lines


def test_json_lines_full_row_gives_text_url_and_day() -> None:
    line = b'{"id": 7, "text": "Hello.", "url": "http://a/b", "date": "2021-03-04T10:00:00Z"}\n'
    assert json_rows(line) == [
        TextRow(text="Hello.", url="http://a/b", date="2021-03-04", source="x.jsonl", row_number=1)
    ]


def test_json_lines_blank_lines_are_no_rows_but_count_as_lines() -> None:
    rows = json_rows(b'\n{"text": "a"}\n  \n{"text": "b"}')
    assert [(row.row_number, row.source) for row in rows] == [(2, "x.jsonl"), (4, "x.jsonl")]
    assert texts(rows) == ["a", "b"]


def test_json_lines_byte_order_mark_is_ignored() -> None:
    assert texts(json_rows(b'\xef\xbb\xbf{"text": "a"}\n')) == ["a"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "a"', "bad_json"),
        (b"[" * 100_000, "bad_json"),
        (b'{"text": "a", "n": ' + b"9" * 5000 + b"}", "bad_json"),
        (b'["text"]', "not_an_object"),
        (b"null", "not_an_object"),
        (b'{"body": "a"}', "no_text"),
        (b'{"text": null}', "no_text"),
        (b'{"text": 5}', "no_text"),
        (b'{"text": " \\n\\u0000"}', "no_text"),
        (b'{"text": "\xff"}', "not_utf8"),
    ],
)
def test_json_lines_bad_line_is_quarantined_and_the_next_is_read(line: bytes, reason: str) -> None:
    rows = json_rows(line + b'\n{"text": "next"}\n', max_row_bytes=200_000)
    assert reasons(rows) == [(1, reason)]
    assert texts(rows) == ["next"]


def test_json_lines_excerpt_is_the_first_200_characters() -> None:
    (row,) = json_rows(b"not json " + "\u00e9".encode() * 300)
    assert isinstance(row, QuarantinedRow)
    assert row.excerpt == "not json " + "\u00e9" * 191


def test_json_lines_line_of_exactly_the_limit_is_read() -> None:
    line = b'{"text": "' + b"a" * 88 + b'"}'
    assert len(line) == 100
    rows = json_rows(line + b"\n" + line, max_row_bytes=100)
    assert texts(rows) == ["a" * 88] * 2


def test_json_lines_line_of_one_byte_more_is_quarantined() -> None:
    line = b'{"text": "' + b"a" * 89 + b'"}'
    rows = json_rows(line + b"\n" + b'{"text": "b"}' + b"\n" + line, max_row_bytes=100)
    assert reasons(rows) == [(1, "too_long"), (3, "too_long")]
    assert texts(rows) == ["b"]


def test_json_lines_line_of_50_megabytes_is_never_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    with path.open("wb") as stream:
        for _ in range(50):
            stream.write(b"a" * 1_000_000)
        stream.write(b'\n{"text": "after"}\n')
    tracemalloc.start()
    rows = rows_of(path)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert reasons(rows) == [(1, "too_long")]
    assert texts(rows) == ["after"]
    assert peak_bytes < 2_000_000


# Plain text


def test_paragraphs_blocks_between_blank_lines_are_rows() -> None:
    content = b"\n\nOne\ntwo.\r\n\r\n \nThree."
    rows = list(read_paragraphs(io.BytesIO(content), "x.txt", MAX_ROW_BYTES))
    assert [(row.row_number, row.text) for row in rows if isinstance(row, TextRow)] == [
        (3, "One\ntwo."),
        (7, "Three."),
    ]


def test_paragraphs_bad_blocks_are_quarantined() -> None:
    long_block = b"0123456789\n" * 20
    content = b"\xff\n\n" + long_block + b"\n" + b"a" * 300 + b"\n\nGood.\n"
    rows = list(read_paragraphs(io.BytesIO(content), "x.txt", 100))
    assert reasons(rows) == [(1, "not_utf8"), (3, "too_long"), (24, "too_long")]
    assert texts(rows) == ["Good."]


# Parquet


def write_parquet(path: Path, columns: dict[str, pa.Array]) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=2)
    return path


def test_parquet_rows_have_text_url_and_day(tmp_path: Path) -> None:
    columns = {
        "text": pa.array(["a", None, "c"]),
        "url": pa.array(["http://a", "http://b", None]),
        "date": pa.array([date(2020, 1, 2), None, date(2021, 3, 4)]),
        "other": pa.array([1, 2, 3]),
    }
    rows = rows_of(write_parquet(tmp_path / "x.parquet", columns))
    assert rows[0] == TextRow(
        text="a", url="http://a", date="2020-01-02", source="x.parquet", row_number=1
    )
    assert reasons(rows) == [(2, "no_text")]
    assert rows[2] == TextRow(
        text="c", url=None, date="2021-03-04", source="x.parquet", row_number=3
    )


def test_parquet_time_stamp_gives_its_day(tmp_path: Path) -> None:
    stamps = pa.array([datetime(2020, 1, 2, 23, 59)], pa.timestamp("ns"))
    (row,) = rows_of(write_parquet(tmp_path / "x.parquet", {"text": ["a"], "date": stamps}))
    assert isinstance(row, TextRow)
    assert row.date == "2020-01-02"


def test_parquet_dictionary_column_is_text(tmp_path: Path) -> None:
    column = pa.array(["a", "b", "a"]).dictionary_encode()
    assert texts(rows_of(write_parquet(tmp_path / "x.parquet", {"text": column}))) == [
        "a",
        "b",
        "a",
    ]


def test_parquet_values_that_are_not_text_are_quarantined(tmp_path: Path) -> None:
    rows = rows_of(write_parquet(tmp_path / "x.parquet", {"text": pa.array([1, None])}))
    assert reasons(rows) == [(1, "bad_row"), (2, "no_text")]


def test_parquet_bytes_that_are_not_utf8_and_long_ones_are_quarantined(tmp_path: Path) -> None:
    column = pa.array([b"\xff", b"a" * 200, b"good"])
    rows = rows_of(write_parquet(tmp_path / "x.parquet", {"text": column}), max_row_bytes=100)
    assert reasons(rows) == [(1, "not_utf8"), (2, "too_long")]
    assert texts(rows) == ["good"]


def test_parquet_without_text_column_is_refused(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", {"body": pa.array(["a"])})
    with pytest.raises(ConfigError, match=r"x\.parquet has no column 'text', only body"):
        rows_of(path)


def test_parquet_that_is_none_is_quarantined(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(b"PAR1 and then nothing of the kind")
    assert reasons(rows_of(path)) == [(1, "corrupt_file")]


# Files: compression, globs, file systems


def zstd_compress(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue().to_pybytes())


COMPRESSORS = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstd_compress,
}


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_files_compressed_file_is_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.jsonl.{suffix}"
    path.write_bytes(COMPRESSORS[suffix](b'{"text": "a"}\n{"text": "b"}\n'))
    rows = rows_of(path)
    assert texts(rows) == ["a", "b"]
    assert {row.source for row in rows} == {path.name}


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_files_truncated_file_keeps_what_came_before(tmp_path: Path, suffix: str) -> None:
    lines = b"".join(b'{"text": "%d"}\n' % (number * 7919 % 999_983) for number in range(60_000))
    content = COMPRESSORS[suffix](lines)
    path = tmp_path / f"x.jsonl.{suffix}"
    path.write_bytes(content[: len(content) * 9 // 10])
    rows = rows_of(path)
    before = texts(rows)
    assert 1000 < len(before) < 60_000
    assert before == [str(number * 7919 % 999_983) for number in range(len(before))]
    assert reasons(rows) == [(len(before) + 1, "truncated_file")]


def test_files_truncated_small_file_keeps_every_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "a"}\n{"text": "b"}\n{"text')[:-8])
    rows = rows_of(path)
    assert texts(rows) == ["a", "b"]
    assert reasons(rows) == [(3, "truncated_file")]


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_files_file_that_is_not_compressed_is_quarantined(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.jsonl.{suffix}"
    path.write_bytes(b'{"text": "plain, whatever the name says"}\n')
    assert reasons(rows_of(path)) == [(1, "corrupt_file")]


def test_files_glob_is_read_in_order_of_names(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "c.txt"):
        content = "c" if name == "c.txt" else json.dumps({"text": name})
        (tmp_path / name).write_text(content)
    assert texts(rows_of(tmp_path / "*.jsonl")) == ["a.jsonl", "b.jsonl"]


def test_files_name_with_glob_characters_is_taken_literally(tmp_path: Path) -> None:
    (tmp_path / "a[1].txt").write_text("brackets")
    assert texts(rows_of(tmp_path / "a[1].txt")) == ["brackets"]


def test_files_memory_url_is_read_and_identity_follows_content() -> None:
    system = fsspec.filesystem("memory")
    system.pipe("/corpus/x.jsonl", b'{"text": "first"}\n')
    source = open_source("memory://corpus/*.jsonl")
    assert texts(list(source.rows(MAX_ROW_BYTES))) == ["first"]
    identity = source.identity()
    system.pipe("/corpus/x.jsonl", b'{"text": "second"}\n')
    assert source.identity() != identity
    system.rm("/corpus", recursive=True)


def test_files_file_url_is_a_local_file(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("text")
    assert texts(rows_of(f"file://{tmp_path}/x.txt")) == ["text"]
    assert open_source(f"file://{tmp_path}/x.txt").identity() == (
        open_source(f"{tmp_path}/x.txt").identity()
    )


def test_files_nothing_matching_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"corpus\.sources: no file matches '.*\*\.jsonl'; exp"):
        open_source(f"{tmp_path}/*.jsonl")


def test_files_folder_is_refused_with_the_cure(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is a folder; name its files: '.*/\*'"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("name", ["x.csv", "x", "x.parquet.gz", "x.gz"])
def test_files_unknown_kind_is_refused_with_the_known_ones(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ConfigError, match=r"unknown kind; known: \.jsonl.*\.parquet.*\.xml"):
        open_source(str(tmp_path / name))


def test_files_unknown_scheme_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"cannot open 'xyz://a/b\.txt': Protocol not known: xyz"):
        open_source("xyz://a/b.txt")


def test_files_package_not_installed_is_refused() -> None:
    with pytest.raises(ConfigError, match="package no_such_package is not installed"):
        open_source("package://no_such_package/x.txt")


@pytest.mark.parametrize("name", ["package:///x.txt", "package://no_such.package/x.txt"])
def test_files_malformed_package_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="expected package://PACKAGE/FILE"):
        open_source(name)


def test_files_file_gone_while_reading_is_a_storage_error(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("text")
    source = open_source(str(path))
    path.unlink()
    with pytest.raises(TransientStorageError, match=r"corpus file x\.txt"):
        list(source.rows(MAX_ROW_BYTES))


def test_files_time_out_is_no_damage() -> None:
    class UnreachableSystem:
        def open(self, path: str, mode: str) -> io.BytesIO:
            raise TimeoutError

    file = InputFile(system=UnreachableSystem(), path="/x.jsonl", reader=read_json_lines)
    with pytest.raises(TransientStorageError):
        list(FileSource((file,)).rows(MAX_ROW_BYTES))


# MediaWiki

DUMP = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/">
<siteinfo><base>https://xx.example.org/wiki/Main_Page</base></siteinfo>
<page><title>Old name</title><ns>0</ns><redirect title="New name"/>
<revision><text>#REDIRECT [[New name]]</text></revision></page>
<page><title>Talk:New name</title><ns>1</ns><revision><text>Chat.</text></revision></page>
<page><title>New name</title><ns>0</ns><revision><timestamp>2016-04-22T10:19:33Z</timestamp>
<text>'''New''' is &lt;b&gt;bold&lt;/b&gt;.</text></revision></page>
<page><title>Empty</title><ns>0</ns><revision><text>{{stub}}</text></revision></page>
<page><title>Long</title><ns>0</ns><revision><text>LONG</text></revision></page>
</mediawiki>"""


def test_dump_articles_are_rows_and_other_pages_are_not() -> None:
    content = DUMP.replace("LONG", "long " * 100).encode()
    rows = list(read_dump(io.BytesIO(content), "x.xml", 300))
    assert rows[0] == TextRow(
        text="New is bold.",
        url="https://xx.example.org/wiki/New_name",
        date="2016-04-22",
        source="x.xml",
        row_number=1,
    )
    assert reasons(rows) == [(2, "no_text"), (3, "too_long")]
    assert len(rows) == 3


def test_dump_truncated_keeps_what_came_before(tmp_path: Path) -> None:
    path = tmp_path / "x.xml"
    path.write_text(DUMP[: DUMP.index("<page><title>Long")])
    rows = rows_of(path)
    assert texts(rows) == ["New is bold."]
    assert reasons(rows)[-1] == (3, "truncated_file")


def test_dump_that_is_not_xml_is_quarantined(tmp_path: Path) -> None:
    path = tmp_path / "x.xml"
    path.write_text("no XML at all")
    assert reasons(rows_of(path)) == [(1, "corrupt_file")]


def test_dump_of_the_package_gensim_reads_as_prose() -> None:
    rows = open_source(WIKIPEDIA_SAMPLE).rows(10_000_000)
    first, second = next(rows), next(rows)
    assert isinstance(first, TextRow)
    assert isinstance(second, TextRow)
    assert first.url == "https://en.wikipedia.org/wiki/Anarchism"
    assert first.date == "2016-04-22"
    assert first.text.startswith("Anarchism is a political philosophy that advocates self-governed")
    assert second.url == "https://en.wikipedia.org/wiki/Autism"
    for residue in ("{{", "}}", "[[", "]]", "''", "<ref", "==", "thumb|", "()"):
        assert residue not in first.text + second.text


@pytest.mark.parametrize(
    ("title", "url"),
    [
        ("A b", "https://x.org/wiki/A_b"),
        ("AC/DC", "https://x.org/wiki/AC/DC"),
        ("100%?", "https://x.org/wiki/100%25%3F"),
    ],
)
def test_article_url_is_beside_the_main_page(title: str, url: str) -> None:
    assert article_url("https://x.org/wiki/Main_Page", title) == url


@pytest.mark.parametrize(
    ("wikitext", "expected"),
    [
        ("A [[link]] and [[target|another]].", "A link and another."),
        ("'''Bold''' and ''italic''.", "Bold and italic."),
        ('Fact.<ref name="a">Book</ref> More.<ref name="b" /> End.', "Fact. More. End."),
        ("Before<!-- hidden --> after.", "Before after."),
        ("[[File:x.jpg|thumb|200px|A [[cat]] here]]\nText.", "Text."),
        ("Text.\n[[Category:Cats]]", "Text."),
        ("Name ({{lang-fr|x}}; {{IPA|y}}) is.", "Name is."),
        ("Name ({{IPA|y}}; born 1950) is.", "Name (born 1950) is."),
        ("It is {{convert|5|km|mi}} long.", "It is 5 km long."),
        ("It is {{convert|3|to|5|ft|m}} high.", "It is 3 to 5 feet high."),
        ("The {{lang|fr|bon mot}} of {{circa|1900}}.", "The bon mot of c. 1900."),
        ("Text.\n{| class=x\n|-\n| cell || cell\n|}\nMore.", "Text.\n\nMore."),
        ("Text.\n* item\n# item {{x}}\n: indented\nMore.", "Text.\n\nMore."),
        ("Text.\n\n== History ==\nMore.", "Text.\n\nMore."),
        ("Text.\n== References ==\n* A\nB\n=== Books ===\nC", "Text."),
        ("Text.\n== See also ==\nA\n== Legacy ==\nMore.", "Text.\n\nMore."),
        ("<blockquote>Quoted {{x}}[[File:y.png|z]]words.</blockquote>", "Quoted words."),
        ("One<br />two&nbsp;three, <math>x^2</math>.", "One two three."),
        ("<div>column</div>Text.<gallery>a.jpg|b</gallery>", "Text."),
    ],
)
def test_wikitext_reads_as_prose(wikitext: str, expected: str) -> None:
    assert plain_text(wikitext) == expected


# reasoning-gym


def generated(query: str) -> list[TextRow]:
    return [row for row in rows_of(f"reasoning-gym:{query}") if isinstance(row, TextRow)]


def test_generated_question_and_answer_are_the_text() -> None:
    rows = generated("chain_sum?size=3&seed=1&min_terms=2&max_terms=2")
    assert len(rows) == 3
    assert [row.row_number for row in rows] == [1, 2, 3]
    for row in rows:
        question, answer = row.text.split("\n")
        first, sign, second = re.findall(r"(\d+) ([+-]) (\d+)", question)[0]
        assert int(answer) == int(first) + (int(second) if sign == "+" else -int(second))
        assert (row.url, row.date, row.source) == (None, None, "reasoning-gym:chain_sum")


def test_generated_same_seed_same_texts_and_other_seed_others() -> None:
    assert generated("chain_sum?size=5&seed=1") == generated("chain_sum?size=5&seed=1")
    assert generated("chain_sum?size=5&seed=1") != generated("chain_sum?size=5&seed=2")
    assert generated("chain_sum?size=5") == generated("chain_sum?size=5&seed=0")


def test_generated_worked_answer_has_no_grading_line() -> None:
    rows = generated("gsm_symbolic?size=20&seed=1")
    assert len(rows) == 20
    assert not any("####" in row.text for row in rows)
    assert rows[1].text.endswith("James responds to 112*5=560 emails")


def test_generated_calendar_question_about_today_has_its_date() -> None:
    rows = generated("calendar_arithmetic?size=40&seed=1&tasks=weekday_offset,count_days")
    dated = [row for row in rows if row.date]
    assert {row.text.startswith("If today is ") for row in dated} == {True}
    assert {"today is" in row.text for row in rows if not row.date} == {False}
    stated = dated[0].text.removeprefix("If today is ").partition(", what")[0]
    assert datetime.strptime(stated, "%A, %B %d, %Y").date().isoformat() == dated[0].date


def test_generated_parameters_are_read_by_type() -> None:
    source = open_generated("reasoning-gym:calendar_arithmetic?size=2&tasks=count_days&seed=3")
    assert source.parameters == {"size": 2, "tasks": ["count_days"], "seed": 3}
    weighted = open_generated("reasoning-gym:chain_sum?allow_negation=true&size=1")
    assert weighted.parameters == {"allow_negation": True, "size": 1, "seed": 0}


def test_generated_identity_follows_the_parameters() -> None:
    first = open_source("reasoning-gym:chain_sum?size=5&seed=1").identity()
    assert first == open_source("reasoning-gym:chain_sum?seed=1&size=5").identity()
    assert first != open_source("reasoning-gym:chain_sum?size=5&seed=2").identity()


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("no_such_task?size=3", "unknown task 'no_such_task'; known: .*chain_sum"),
        ("chain_sum?colour=3", "colour"),
        ("chain_sum?size=many", "expected reasoning-gym:TASK"),
        ("chain_sum?size", "expected reasoning-gym:TASK"),
        ("calendar_arithmetic?tasks=x", "Invalid tasks: x"),
    ],
)
def test_generated_bad_task_or_parameter_is_refused(query: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_source(f"reasoning-gym:{query}")


def test_generated_without_the_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(ConfigError, match="run pip install reasoning-gym"):
        open_source("reasoning-gym:chain_sum?size=3")


# Data sets


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("hf:wikitext/wikitext-2:train", ("wikitext", "wikitext-2", "train")),
        ("hf:allenai/c4/en:validation", ("allenai/c4", "en", "validation")),
        ("hf:/some/folder:train", ("/some/folder", None, "train")),
        ("hf:./folder:test", ("./folder", None, "test")),
    ],
)
def test_hub_name_is_parsed(source: str, expected: tuple[str, str | None, str]) -> None:
    found = open_hub(source)
    assert (found.name, found.config, found.split) == expected


@pytest.mark.parametrize("source", ["hf:", "hf:c4", "hf:c4:train", "hf:allenai/c4", "hf:a/b:"])
def test_hub_incomplete_name_is_refused(source: str) -> None:
    with pytest.raises(ConfigError, match="expected hf:NAME/CONFIG:SPLIT"):
        open_source(source)


def test_hub_local_folder_is_streamed(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"text": "a", "url": "u"}\n{"text": ""}\n{"text": "b"}\n')
    rows = rows_of(f"hf:{tmp_path}:train")
    assert texts(rows) == ["a", "b"]
    assert reasons(rows) == [(2, "no_text")]
    assert rows[0].source == f"hf:{tmp_path.name}:train"


def test_hub_identity_changes_with_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "x.jsonl").write_text('{"text": "a"}\n')
    source = open_hub(f"hf:{folder}:train")
    identity = source.identity()
    assert source.identity() == identity
    (folder / "x.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    assert source.identity() != identity


def test_hub_unknown_split_or_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(ConfigError, match="Bad split: nothing"):
        rows_of(f"hf:{tmp_path}:nothing")
    with pytest.raises(ConfigError, match="expected hf:NAME"):
        rows_of(f"hf:{tmp_path}/none:train")


def test_hub_out_of_reach_is_a_storage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(name: str, config: str | None, **options: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    with pytest.raises(TransientStorageError, match="hf:a/b:train: no route"):
        rows_of("hf:a/b:train")


# Rows and passages


@pytest.mark.parametrize(
    ("value", "day"),
    [
        ("2021-03-04", "2021-03-04"),
        ("2021-03-04 10:00", "2021-03-04"),
        (date(2021, 3, 4), "2021-03-04"),
        (datetime(2021, 3, 4, 5), "2021-03-04"),
        ("2021", None),
        (2021, None),
        (None, None),
        ("2021-02-30", None),
        ("2021-03-045", None),
        ("4 March 2021", None),
    ],
)
def test_iso_day_is_the_day_or_none(value: object, day: str | None) -> None:
    assert iso_day(value) == day


def test_clean_text_changes_newlines_nul_and_surrogates_only() -> None:
    assert clean_text("a\r\nb\rc\nd\0e\ud800f") == "a\nb\nc\nde\ufffdf"
    assert clean_text("e\u0301 \u00a0\ufb01 \U0001f600") == "e\u0301 \u00a0\ufb01 \U0001f600"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  short  ", ["short"]),
        ("   ", []),
        ("First part.\n\nSecond part. It goes on.", ["First part.", "Second part.", "It goes on."]),
        ("One is here. Two is there now.", ["One is here.", "Two is there now."]),
        ("Here spoke Dr. Smith now.", ["Here spoke Dr. Smith", "now."]),
        ("Here are J. Doe too now.", ["Here are J. Doe too", "now."]),
        ("words without any stop at all", ["words without any", "stop at all"]),
        ("x" * 45, ["x" * 20, "x" * 20, "x" * 5]),
        ("y" * 20 + " " + "z" * 20, ["y" * 20, "z" * 20]),
    ],
)
def test_cut_passages_ends_at_the_best_place(text: str, expected: list[str]) -> None:
    assert cut_passages(text, 20) == expected


@pytest.mark.parametrize(
    ("date", "url", "expected"),
    [
        (None, "https://example.org/2019/03/14/news", "2019-03-14"),
        ("2001-02-03", "https://example.org/2019/03/14/news", "2001-02-03"),
        ("1790", "https://example.org/2019/03/14/news", "2019-03-14"),
        (None, "https://example.org/2019/13/14/news", None),
        (None, "https://example.org/?id=20151332", None),
        (None, "https://example.org/1803/01/02/", None),
        (None, None, None),
    ],
)
def test_row_date_is_its_field_else_that_of_its_address(date, url, expected):
    fields = {"text": "A text.", "url": url, "date": date}
    row = row_from_fields(fields, source="s", row_number=1, max_row_bytes=100)
    assert row.date == expected
