"""QA: passages found by words and read by a model, a scripted one and real ones."""

import pytest
import torch

from tests.support.servers import serving
from toolformer_core.config.tools import QAConfig
from toolformer_core.errors import ConfigError, ToolInputRejected, TransientToolError
from toolformer_core.models import ModelRef
from toolformer_core.served_lm.completions import CompletionsClient
from toolformer_core.tools.base import NO_DOCUMENT, BatchTool, CallContext
from toolformer_core.tools.qa import QA, LocalReader, QARules, ServedReader, excerpt, short_answer
from toolformer_core.tools.search_index import Passage, SearchIndex, build_index
from toolformer_core.transformers_lm.loading import load_model

PASSAGES = [
    Passage(
        title="Mill", url="https://e.org/mill", document_id="m", text="The mill burned in 1922."
    ),
    Passage(title="Bridge", url=None, document_id="b", text="Louis Ferrand opened the bridge."),
]
HEAD = "Answer.\n\n"
QUESTIONS = ["Passages:\nA > b c\nQuestion: Who is it?", "Passages:\nD > e\nQuestion: And when?"]


class ScriptedReader:
    """Answers the last word of its first passage."""

    name = "scripted"

    def __init__(self):
        self.asked = []

    def read(self, head, questions, max_tokens):
        self.asked.append((head, list(questions), max_tokens))
        return [f" {text.splitlines()[1].split()[-1]}" for text in questions]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qa") / "index"
    build_index(PASSAGES, folder)
    return SearchIndex(folder)


def test_qa_batch_is_read_at_once_and_questions_without_passages_are_not_read(index):
    reader = ScriptedReader()
    qa = QA(index, reader, QAConfig())
    assert isinstance(qa, BatchTool)
    calls = [
        (text, NO_DOCUMENT)
        for text in ('"When did the mill burn?"', "Zzz zzz zzz?", "Who? the bridge")
    ]
    assert qa.call_batch(calls) == ["1922", "", "bridge"]
    [(head, asked, max_tokens)] = reader.asked
    assert head.startswith("Answer each question")
    assert (
        asked[0] == "Passages:\nMill > The mill burned in 1922.\nQuestion: When did the mill burn?"
    )
    assert len(asked) == 2
    assert max_tokens == 12


def test_qa_does_not_read_the_document_that_asks(index):
    qa = QA(index, ScriptedReader(), QAConfig())
    for context in (
        CallContext(document_id="m", url=None, date=None),
        CallContext(document_id="x", url="http://www.e.org/mill", date=None),
    ):
        assert qa.call("When did the mill burn?", context) == ""


@pytest.mark.parametrize("argument", ["", "D", '"the mill"'])
def test_qa_less_than_three_words_are_no_question(index, argument):
    with pytest.raises(ToolInputRejected, match="is no question"):
        QA(index, ScriptedReader(), QAConfig()).call(argument, NO_DOCUMENT)


@pytest.mark.parametrize(
    "changed", [{"num_passages": 1}, {"max_passage_chars": 99}, {"max_answer_tokens": 3}]
)
def test_qa_version_follows_what_decides_an_answer(index, changed):
    versions = {QA(index, ScriptedReader(), QAConfig(**c)).version for c in ({}, changed)}
    assert len(versions) == 2


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (" Louis Ferrand.\nPassages:", "Louis Ferrand"),
        (' "1922"', "1922"),
        (" unknown", ""),
        (" Not mentioned here", ""),
        ("None.", ""),
        ("Nonetheless", "Nonetheless"),
        ("", ""),
    ],
)
def test_short_answer_is_the_first_line(text, answer):
    assert short_answer(text) == answer


def test_excerpt_starts_with_the_sentence_that_has_most_of_the_question():
    text = "He was a painter. He liked hats. He was born in Lima in 1890. He died."
    assert excerpt(text, "Where was he born, in Lima?", 30) == "He was born in Lima in 1890."
    assert excerpt("Short text.", "No word of it", 30) == "Short text."


@pytest.mark.parametrize(
    ("after", "expected"),
    [(" 1922, it burned", True), (" the year 1922", True), (" last year", False)],
)
def test_qa_is_right_where_the_answer_follows(after, expected):
    assert QARules().is_right("1922", after) is expected


def test_local_reader_reads_like_plain_greedy_decoding(tiny_llama_folder):
    lm = load_model(ModelRef(path=str(tiny_llama_folder), digest="", dtype="float32"), "cpu", 4096)
    found = LocalReader(lm, "tiny").read(HEAD, QUESTIONS, 8)
    for question, text in zip(QUESTIONS, found, strict=True):
        ids = [lm.document_start_id, *lm.encode(HEAD), *lm.encode(question), *lm.encode("\nAnswer")]
        ids += lm.encode(":")
        start = len(ids)
        for _ in range(8):
            with torch.inference_mode():
                logits = lm.model(input_ids=torch.tensor([ids]), use_cache=False).logits
            ids.append(int(logits[0, -1].argmax()))
        assert text == lm.tokenizer.decode(ids[start:]).partition("\n")[0]


def test_served_reader_gives_what_the_server_completes(tiny_llama_folder):
    with serving("echoing", tiny_llama_folder) as url:
        reader = ServedReader(CompletionsClient(url, "tiny", max_retries=0))
        found = reader.read(HEAD, QUESTIONS, 4)
        refused = ServedReader(CompletionsClient(url, "other", max_retries=0))
        with pytest.raises(ConfigError, match="no model other"):
            refused.read(HEAD, QUESTIONS, 4)
    assert len(found) == 2
    assert all(isinstance(text, str) for text in found)
    with pytest.raises(TransientToolError):
        reader.read(HEAD, QUESTIONS, 4)
