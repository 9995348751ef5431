"""Tools by name: the built-in ones, those of installed packages, and those that settings add."""

import dataclasses
import datetime
import functools
from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import TypeAdapter

from toolformer_core.config.base import ModelConfig
from toolformer_core.config.tools import HttpTool, OpenApiTool, OwnTool, PythonTool, ToolsConfig
from toolformer_core.errors import ConfigError
from toolformer_core.lm import LanguageModel
from toolformer_core.tools.base import AnyPlace, Rules, Tool
from toolformer_core.tools.calculator import Calculator, CalculatorRules
from toolformer_core.tools.calendar import Calendar, CalendarRules
from toolformer_core.tools.http_tool import http_tool
from toolformer_core.tools.isolation import BuildTool
from toolformer_core.tools.machine_translation import MT, TranslationRules
from toolformer_core.tools.mcp_server import mcp_tools
from toolformer_core.tools.ocr import OCR, OcrRules
from toolformer_core.tools.openapi import openapi_tools
from toolformer_core.tools.python_function import PythonFunction, installed_functions
from toolformer_core.tools.qa import QA, LocalReader, QARules, Reader, ServedReader
from toolformer_core.tools.search_index import SearchIndex
from toolformer_core.tools.secret_values import Lookup, environment_lookup
from toolformer_core.tools.translators import Translator
from toolformer_core.tools.wiki_search import SearchRules, WikiSearch

SEARCHING_TOOLS = ("WikiSearch", "QA")
"""What needs a search index."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What tools need from outside; `today` is None for annotation, a clock for inference."""

    index_folder: Path | None = None
    load_reader: Callable[[ModelConfig], tuple[LanguageModel, str]] | None = None
    lookup: Lookup = environment_lookup
    timeout_seconds: float = 10.0
    today: Callable[[], datetime.date] | None = None


def build_tool(name: str, config: ToolsConfig, services: Services) -> Tool:
    """The tool of that name; others are asked what they offer only if it is not known without.

    Raises: ConfigError for an unknown name, or a tool that lacks something.
    """
    entries = {entry.label: entry for entry in own_entries(config)}
    if name in _BUILDERS:
        return _BUILDERS[name](config, services)
    if name in entries and isinstance(entries[name], PythonTool | HttpTool):
        return own_tools(entries[name], services)[0]
    known = [*_BUILDERS]
    for entry in entries.values():
        tools = {tool.name: tool for tool in own_tools(entry, services)}
        if name in tools:
            return tools[name]
        known += tools
    raise ConfigError(f"unknown tool {name!r}; known tools: {', '.join(known)}")


def isolated_build(name: str, config: ToolsConfig) -> BuildTool | None:
    """How to build the tool in another process; None if it bounds itself and needs none."""
    if name in ("MT", "OCR"):
        return functools.partial(build_tool, name, config, Services())
    for entry in own_entries(config):
        if isinstance(entry, PythonTool) and entry.label == name and entry.isolated:
            return functools.partial(PythonFunction, entry)
    return None


def own_entries(config: ToolsConfig) -> list[OwnTool]:
    """The tools of the user's own: those of the settings, then those of installed packages.

    Raises: ConfigError for a name that is there twice.
    """
    entries = [*config.own, *installed_functions()]
    labels = [*_BUILDERS, *(entry.label for entry in entries)]
    for label in labels:
        if labels.count(label) > 1:
            raise ConfigError(f"tools.own: {label} is there twice; give one of them another name")
    return entries


def own_tools(entry: OwnTool, services: Services) -> list[Tool]:
    """The tools that one entry gives.

    Raises: ConfigError for one that cannot be read.
    """
    if isinstance(entry, PythonTool):
        return [PythonFunction(entry)]
    return _remote_tools(entry.model_dump_json(), services.lookup, services.timeout_seconds)


@functools.lru_cache(maxsize=32)
def _remote_tools(entry_json: str, lookup: Lookup, timeout_seconds: float) -> list[Tool]:
    """The tools of an entry that is reached over a connection, once per process."""
    entry: OwnTool = TypeAdapter[OwnTool](OwnTool).validate_json(entry_json)
    assert not isinstance(entry, PythonTool)
    if isinstance(entry, HttpTool):
        return [http_tool(entry, lookup, timeout_seconds)]
    if isinstance(entry, OpenApiTool):
        return openapi_tools(entry, lookup, timeout_seconds)
    return mcp_tools(entry, lookup, timeout_seconds)


def rules_of(name: str) -> Rules:
    """What is known of the calls of a tool without the tool."""
    return _RULES.get(name, AnyPlace)()


def _search_index(services: Services, name: str) -> SearchIndex:
    if services.index_folder is None:
        raise ConfigError(f"{name} needs a search index; build one with toolformer index")
    return SearchIndex(services.index_folder)


def _wiki_search(config: ToolsConfig, services: Services) -> Tool:
    index = _search_index(services, "WikiSearch")
    return WikiSearch(index, config.wiki_search.max_snippet_chars)


def _qa(config: ToolsConfig, services: Services) -> Tool:
    return QA(_search_index(services, "QA"), _reader(config, services), config.qa)


def _reader(config: ToolsConfig, services: Services) -> Reader:
    """What reads passages for QA.

    Raises: ConfigError if it is not there.
    """
    if config.qa.url is None:
        if services.load_reader is None:
            raise ConfigError("QA needs a model that reads; set tools.qa.reader or tools.qa.url")
        return LocalReader(*services.load_reader(config.qa.reader))
    # Here, because few runs need the client's package.
    from toolformer_core.served_lm.completions import CompletionsClient, served_models

    model = config.qa.served_model or next(iter(served_models(config.qa.url)), None)
    if model is None:
        raise ConfigError(
            f"tools.qa.url {config.qa.url} offers no model; set tools.qa.served_model"
        )
    return ServedReader(CompletionsClient(config.qa.url, model, max_retries=0))


def _mt(config: ToolsConfig, services: Services) -> Tool:
    return MT(config.mt, _load_translator)


def _load_translator(name: str) -> Translator:
    # Here, because it loads torch, which few runs need for a tool.
    from toolformer_core.tools.seq2seq import Seq2SeqTranslator

    return Seq2SeqTranslator(name)


_BUILDERS: Mapping[str, Callable[[ToolsConfig, Services], Tool]] = {
    "QA": _qa,
    "WikiSearch": _wiki_search,
    "Calculator": lambda config, services: Calculator(),
    "Calendar": lambda config, services: Calendar(clock=services.today),
    "MT": _mt,
    "OCR": lambda config, services: OCR(config.ocr),
}

BUILT_IN = tuple(_BUILDERS)

_RULES: Mapping[str, type[Rules]] = {
    "QA": QARules,
    "WikiSearch": SearchRules,
    "Calculator": CalculatorRules,
    "Calendar": CalendarRules,
    "MT": TranslationRules,
    "OCR": OcrRules,
}
