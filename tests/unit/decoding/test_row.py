"""The text of tokens that come one by one."""

import pytest

from tests.support.tiny_model import tiny_tokenizer
from toolformer_core.decoding.row import TextStream

TEXTS = (
    "She has 7 apples.",
    "  two  spaces\n\nand lines ",
    "né à Zürich, 東京 \U0001f600!",
    "a[b] ->",
)


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("before", ["", "It is", "東京"])
def test_text_stream_pieces_are_the_text(tokenizer, text, before):
    stream = TextStream(tokenizer, tokenizer.encode(before))
    pieces = [stream.push(token) for token in tokenizer.encode(text)]
    assert "".join(pieces) == text


def test_text_stream_behind_half_a_character_gives_what_comes_after_it(tokenizer):
    half = tokenizer.encode("It is \U0001f600")[:-1]
    stream = TextStream(tokenizer, half)
    assert "".join(stream.push(token) for token in tokenizer.encode(" [Calc")) == " [Calc"


def test_text_stream_gives_no_half_characters(tokenizer):
    stream = TextStream(tokenizer, [])
    pieces = [stream.push(token) for token in tokenizer.encode("\U0001f600")]
    assert pieces == ["", "", "", "\U0001f600"]
