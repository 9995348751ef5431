"""MLQA and XQuAD: an English paragraph, a question in another language (paper, section 4.2.4).

The language of a question is named by its row (language), or by its file or data set, as in
test-context-en-question-de.json, mlqa.en.de, xquad.de.json. XQuAD keeps paragraphs and questions
of one language together: the paragraph and the answers then come from its English file, found
beside by its name, through the id of the question.
"""

import re
from collections.abc import Iterator, Mapping
from functools import partial

from toolformer_core.benchmarks.items import ParsedRow, text_in, texts_in
from toolformer_core.benchmarks.rows import Fields, RawRow, RowSource, open_rows

LANGUAGES = ("en", "es", "de", "hi", "vi", "zh", "ar")
"""The paper's six, and English, its upper bound."""
PROMPT = (
    "Your task is to answer a question based on the following paragraph: {context} Now answer the "
    "following question in English: {question}"
)
EXPECTED = (
    "context (in English), question, answers and perhaps language; or a file of MLQA or XQuAD, "
    "which is SQuAD's data, paragraphs and qas"
)

_PARAGRAPH_AND_QUESTION = re.compile(r"context-(\w+)-question-(\w+)|mlqa\.(\w+)\.(\w+)")
_XQUAD = re.compile(r"xquad\.(?P<language>\w\w|\*)(?![^\W_])")


def english_beside(source: str, setting: str) -> RowSource | None:
    """XQuAD's English file or data set, which belongs to one in another language.

    Raises: ConfigError if that is missing.
    """
    if not _XQUAD.search(source):
        return None
    english = _XQUAD.sub("xquad.en", source)
    return open_rows(
        english, setting, "the paragraphs and answers of XQuAD are in its English file"
    )


def multilingual_parser(
    language: str | None, english: RowSource | None
) -> partial[Iterator[ParsedRow]]:
    """What reads a row; questions of other languages than the one asked for are left out."""
    found = (_questions(row.fields) for row in english.rows()) if english is not None else ()
    by_id = {fields["id"]: fields for questions in found for fields in questions}
    return partial(_parse, language=language, english=by_id)


def _parse(
    row: RawRow, language: str | None, english: Mapping[object, Fields]
) -> Iterator[ParsedRow]:
    for fields in _questions(row.fields):
        asked_in = _language(row, fields)
        if language in (None, asked_in) or asked_in is None:
            evidence = english.get(fields["id"]) if english else fields
            if evidence is None:
                raise ValueError(f"XQuAD's English file has no question {fields['id']!r}")
            prompt = PROMPT.format(
                context=text_in(evidence, "context"), question=text_in(fields, "question")
            )
            row_id = (asked_in, fields["id"]) if "id" in fields else None
            yield ParsedRow(row_id, prompt, _answers(evidence))


def _questions(fields: Fields) -> Iterator[Fields]:
    """The questions of an article of SQuAD's form, each with its paragraph; or the row itself."""
    if "paragraphs" not in fields:
        yield fields
    for paragraph in fields.get("paragraphs", ()):
        yield from ({**question, "context": paragraph["context"]} for question in paragraph["qas"])


def _language(row: RawRow, fields: Fields) -> str | None:
    """The language of the question, if anything names it.

    Raises: ValueError if the paragraph is not English.
    """
    if named := _PARAGRAPH_AND_QUESTION.search(row.source):
        paragraph, question = (part for part in named.groups() if part)
        if paragraph != "en":
            raise ValueError(f"the paragraphs are in {paragraph}, not en")
        return question
    if named := _XQUAD.search(row.source):
        return named["language"]
    language = fields.get("language", fields.get("lang"))
    return language if isinstance(language, str) else None


def _answers(fields: Fields) -> tuple[str, ...]:
    """The answers' texts in any of the forms of SQuAD, or of a plain list."""
    answers = fields["answers"]
    if isinstance(answers, Mapping):
        return texts_in(answers["text"])
    return texts_in([a["text"] if isinstance(a, Mapping) else a for a in answers])
