"""Cutting loses nothing but white space; any bytes give rows, never an error."""

import io

from hypothesis import given
from hypothesis import strategies as st

from toolformer_core.readers.lines import read_json_lines, read_paragraphs
from toolformer_core.readers.passages import cut_passages
from toolformer_core.readers.rows import clean_text

_TEXT = st.text() | st.text(alphabet="aB. \n", max_size=300)


def without_white_space(text: str) -> str:
    return "".join(text.split())


@given(text=_TEXT, max_chars=st.integers(1, 60))
def test_cut_passages_loses_only_white_space(text: str, max_chars: int) -> None:
    passages = cut_passages(text, max_chars)
    assert "".join(map(without_white_space, passages)) == without_white_space(text)


@given(text=_TEXT, max_chars=st.integers(1, 60))
def test_cut_passages_are_short_stripped_and_stand_in_the_text(text: str, max_chars: int) -> None:
    start = 0
    for passage in cut_passages(text, max_chars):
        assert 0 < len(passage) <= max_chars
        assert passage == passage.strip()
        start = text.index(passage, start) + len(passage)


@given(text=_TEXT)
def test_clean_text_is_idempotent_and_can_be_stored(text: str) -> None:
    cleaned = clean_text(text)
    assert clean_text(cleaned) == cleaned
    cleaned.encode("utf-8")


@given(content=st.binary(max_size=200), max_row_bytes=st.integers(4, 50))
def test_read_json_lines_gives_one_row_per_line_of_any_bytes(
    content: bytes, max_row_bytes: int
) -> None:
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    expected = [number for number, line in enumerate(lines, start=1) if line.strip()]
    rows = read_json_lines(io.BytesIO(content), "x", max_row_bytes)
    assert [row.row_number for row in rows] == expected


@given(content=st.binary(max_size=200), max_row_bytes=st.integers(4, 50))
def test_read_paragraphs_takes_any_bytes(content: bytes, max_row_bytes: int) -> None:
    rows = list(read_paragraphs(io.BytesIO(content), "x", max_row_bytes))
    numbers = [row.row_number for row in rows]
    assert numbers == sorted(set(numbers))
