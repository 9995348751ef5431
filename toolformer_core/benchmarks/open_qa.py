"""Open questions: WebQuestions, Natural Questions, TriviaQA (paper, section 4.2.3, Appendix C.3).

The tool QA is barred: in the paper it was itself tuned on Natural Questions.
"""

import re
from collections.abc import Iterator, Mapping

from toolformer_core.benchmarks.items import ParsedRow, text_in, texts_in
from toolformer_core.benchmarks.rows import Fields, RawRow

PROMPT = "Answer the following question: "
EXPECTED = (
    "question and answers; or WebQuestions' utterance and targetValue, NQ-open's question and "
    "answer, TriviaQA's Question and Answer"
)

_DESCRIPTION = re.compile(r'\(description (?:"((?:[^"\\]|\\.)*)"|([^()]+))\)')
_ANSWER_FIELDS = (
    ("Value", "value"),
    ("Aliases", "aliases"),
    ("NormalizedAliases", "normalized_aliases"),
)
_NO_ANSWER = "<unk>"  # what the hub's TriviaQA has in its test split


def question_prompt(question: str) -> str:
    """The paper's prompt of a question, which ends with a question mark."""
    return f"{PROMPT}{question}{'' if question.endswith('?') else '?'}"


def parse_question(row: RawRow) -> Iterator[ParsedRow]:
    """The item of a row of any of the three sets."""
    fields = row.fields
    row_id = fields.get("id", fields.get("question_id", fields.get("QuestionId")))
    question = text_in(fields, "question", "Question", "utterance")
    yield ParsedRow(row_id, question_prompt(question), _gold(fields))


def _gold(fields: Fields) -> tuple[str, ...]:
    if "answers" in fields:
        return texts_in(fields["answers"])
    if "targetValue" in fields:
        found = _DESCRIPTION.findall(text_in(fields, "targetValue"))
        return texts_in([re.sub(r"\\(.)", r"\1", quoted) or plain for quoted, plain in found])
    answer = fields["answer"] if "answer" in fields else fields["Answer"]
    if not isinstance(answer, Mapping):
        return texts_in(answer)
    values: list[object] = []
    for official, of_hub in _ANSWER_FIELDS:
        value = answer.get(official, answer.get(of_hub))
        values += value if isinstance(value, list) else [value]
    return texts_in([value for value in values if value not in (None, _NO_ANSWER)])
