"""Language identification: right on phrases, total on anything."""

import logging

import pytest

from toolformer_core.tools.language_id import MAX_CHARS, UNDETERMINED, detect_language


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("O homem suprimido", "pt"),
        ("Todo tiene su tiempo", "es"),
        ("La guerre est finie", "fr"),
        ("Der Himmel ist blau", "de"),
        ("The book was never finished.", "en"),
        ("\u4f60\u597d\u4e16\u754c", "zh"),
        ("Todo\ntiene\0su\ttiempo \ud800", "es"),
        ("TODO TIENE SU TIEMPO", "es"),
    ],
)
def test_detect_language_phrase_told_with_confidence(text, language):
    found, confidence = detect_language(text)
    assert found == language
    assert 0.5 < confidence <= 1
    assert detect_language(text) == (found, confidence)


@pytest.mark.parametrize(
    "text", ["", " ", "\0", "\n\n", "12 + 34 = 46", "...", "\ud800\udfff", "\ufffe"]
)
def test_detect_language_without_a_letter_undetermined(text):
    assert detect_language(text) == (UNDETERMINED, 0.0)


def test_detect_language_long_text_judged_by_its_start(caplog):
    spanish = "Todo tiene su tiempo y su lugar. " * 40
    assert len(spanish) > MAX_CHARS
    with caplog.at_level(logging.DEBUG):
        assert detect_language(spanish + "This is English. " * 10_000) == detect_language(spanish)
    assert caplog.records == []
