"""QA: a short answer to a question, read out of passages that are searched for (paper, section 3).

Departs: the paper asks Atlas, a retrieval model of its own size; here BM25 finds the passages and
any causal language model reads them, one that runs here or one that is served.
Choice: one line, without its full stop; "unknown" is no answer. Less than three words are no
question: small models ask for "city" or "D" and are told something, which teaches nothing.
"""

import re
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from toolformer_core.config.tools import QAConfig
from toolformer_core.errors import (
    ToolError,
    ToolInputRejected,
    TransientModelError,
    TransientToolError,
)
from toolformer_core.fingerprint import fingerprint
from toolformer_core.lm import (
    AnnotationPrompt,
    ContinuationRequest,
    LanguageModel,
    SamplingSettings,
)
from toolformer_core.notation import unquote
from toolformer_core.tools.base import CallContext, load_prompt
from toolformer_core.tools.search_index import SearchIndex, words_of
from toolformer_core.tools.wiki_search import SearchRules, cut_at_word

if TYPE_CHECKING:  # few runs need the client's package
    from toolformer_core.served_lm.completions import CompletionsClient

CHECKED_CHARS = 60
MAX_QUESTION_CHARS = 300
MIN_QUESTION_WORDS = 3
_SENTENCE_END = re.compile(r"[.!?]\s+(?=\S)")
_NO_ANSWER = re.compile(r"(?:unknown|none|not (?:given|known|stated|mentioned))\b", re.IGNORECASE)


_PARAMETERS: dict[str, Any] = {  # Any: a JSON schema
    "type": "object",
    "properties": {"question": {"type": "string"}},
    "required": ["question"],
}


class Reader(Protocol):
    """What reads passages; `name` identifies its answers."""

    name: str

    def read(self, head: str, questions: Sequence[str], max_tokens: int) -> list[str]:
        """What follows each question and "Answer:", the likeliest word each time."""


class LocalReader:
    """A language model that runs here; all questions share what it read of the head."""

    def __init__(self, lm: LanguageModel, name: str) -> None:
        self.name = name
        self._lm = lm
        self._reading = threading.Lock()  # a model serves one reading at a time

    def read(self, head: str, questions: Sequence[str], max_tokens: int) -> list[str]:
        """The greedy continuations, decoded together."""
        texts = [self._lm.tokenize(question) for question in questions]
        # P(x) = head + x + tail: the question stands for x, and nothing of x is copied after it.
        prompt = AnnotationPrompt(head=head, tail="\nAnswer")
        requests = [
            ContinuationRequest(document_index=index, token_index=0, start=":", seed=0)
            for index in range(len(texts))
        ]
        settings = SamplingSettings(temperature=0.0, top_p=1.0, max_tokens=max_tokens, stop="\n")
        with self._reading:
            reading = self._lm.read(prompt, texts, [()] * len(texts))
            return [found.text for found in reading.continuations(requests, settings)]


class ServedReader:
    """A model behind an OpenAI-compatible completions server."""

    def __init__(self, client: "CompletionsClient") -> None:
        self.name = f"{client.model} at {client.url}"
        self._client = client

    def read(self, head: str, questions: Sequence[str], max_tokens: int) -> list[str]:
        """The greedy completions, one request each.

        Raises: TransientToolError for an outage, ConfigError where the server refuses.
        """
        try:
            return [self._complete(f"{head}{text}\nAnswer:", max_tokens) for text in questions]
        except TransientModelError as error:
            raise TransientToolError(str(error)) from error

    def _complete(self, prompt: str, max_tokens: int) -> str:
        answer = self._client.complete(prompt, max_tokens=max_tokens, temperature=0.0, stop=["\n"])
        return answer.text


class QARules(SearchRules):
    """Where an answer can help, and whether it is what the text says next."""

    def is_right(self, result: str, after: str) -> bool | None:
        """Whether the next 60 characters hold the answer."""
        return result.casefold() in after[:CHECKED_CHARS].casefold()


class QA(QARules):
    """Answers a question in a few words."""

    name = "QA"
    description = "Answers a question of facts with a few words."
    takes_argument = True
    parameters = _PARAMETERS
    context_fields: tuple[str, ...] = ("document_id", "url")
    example: str | None = "What is the capital of Angola?"

    def __init__(self, index: SearchIndex, reader: Reader, config: QAConfig) -> None:
        self.prompt = load_prompt("qa")
        self._head = load_prompt("qa_reader")
        self._index = index
        self._reader = reader
        self._config = config
        settings = (config.num_passages, config.max_passage_chars, config.max_answer_tokens)
        self.version = f"1-{fingerprint(index.digest, reader.name, self._head, settings)}"

    def call(self, argument: str, context: CallContext) -> str:
        """The answer, or nothing if no passage has one."""
        (answer,) = self.call_batch([(argument, context)])
        if isinstance(answer, ToolError):
            raise answer
        return answer

    def call_batch(self, calls: Sequence[tuple[str, CallContext]]) -> list[str | ToolError]:
        """The answers, read together; nothing where no passage has one."""
        texts = [self._question(unquote(argument), context) for argument, context in calls]
        asked = [text for text in texts if isinstance(text, str) and text]
        found = iter(self._reader.read(self._head, asked, self._config.max_answer_tokens))
        return [short_answer(next(found)) if text in asked else text for text in texts]

    def _question(self, question: str, context: CallContext) -> str | ToolError:
        """The passages and the question, as the reader takes them; nothing without passages."""
        line = " ".join(question.split())[:MAX_QUESTION_CHARS]
        if len(line.split()) < MIN_QUESTION_WORDS:
            return ToolInputRejected(f"{line!r} is no question; expected three words or more")
        passages = self._index.search(line, limit=self._config.num_passages, context=context)
        if not passages:
            return ""
        longest = self._config.max_passage_chars
        shown = "\n".join(
            f"{passage.title} > {excerpt(passage.text, line, longest)}" for passage in passages
        )
        return f"Passages:\n{shown}\nQuestion: {line}"


def excerpt(text: str, question: str, max_chars: int) -> str:
    """The part of the text, from the start of a sentence, with most words of the question."""
    asked = set(words_of(question))
    sentences = [0, *(match.end() for match in _SENTENCE_END.finditer(text))]
    parts = [cut_at_word(text[start:], max_chars) for start in sentences]
    return max(parts, key=lambda part: len(asked.intersection(words_of(part))))


def short_answer(text: str) -> str:
    """The first line without its full stop; nothing if it says that there is no answer."""
    line = unquote(text.strip().partition("\n")[0]).rstrip(".").strip()
    return "" if _NO_ANSWER.match(line) else line
