"""What the stages need before they start: the model as a folder, the tools with their data."""

from pathlib import Path

from tasks._policies import effect_task
from tasks.resources import ToolRef
from toolformer_core.config import CorpusConfig, ModelConfig, Runtime, ToolsConfig, WikiSearchConfig
from toolformer_core.corpus import STAGE_VERSION, corpus_digest, read_corpus
from toolformer_core.fingerprint import fingerprint
from toolformer_core.models import ModelRef, resolve_model
from toolformer_core.records import Document
from toolformer_core.tools.registry import build_tool, check_tool_names
from toolformer_core.tools.wiki_search import INDEX_FORMAT, build_index, passage_of

_PASSAGE_CHARS = 600


@effect_task
def prepare_model(config: ModelConfig, runtime: Runtime) -> ModelRef:
    """The base model as a local folder."""
    return resolve_model(config, runtime.home)


@effect_task
def prepare_tools(config: ToolsConfig, runtime: Runtime) -> list[ToolRef]:
    """References of the enabled tools, the search index built if it is not there."""
    return tool_refs(config, runtime.home)


def tool_refs(config: ToolsConfig, home: Path) -> list[ToolRef]:
    """References of the enabled tools; see prepare_tools."""
    check_tool_names(config.enabled)
    return [_tool_ref(name, config, home) for name in config.enabled]


def _tool_ref(name: str, config: ToolsConfig, home: Path) -> ToolRef:
    snippet = config.wiki_search.max_snippet_chars
    index = _search_index(config.wiki_search, home) if name == "WikiSearch" else None
    tool = build_tool(name, index_folder=index, max_snippet_chars=snippet, today=None)
    return ToolRef(
        name=name,
        digest=fingerprint(tool.version, tool.prompt),
        index_folder=str(index.absolute()) if index else None,
        max_snippet_chars=snippet,
    )


def _search_index(config: WikiSearchConfig, home: Path) -> Path:
    """The folder of the passage index, named by the content of its sources."""
    passages = _passages(config)
    identity = fingerprint(corpus_digest(passages), STAGE_VERSION, INDEX_FORMAT)
    folder = home / "indexes" / identity
    if not folder.exists():
        documents = (row for row in read_corpus(passages) if isinstance(row, Document))
        build_index((passage_of(document) for document in documents), folder)
    return folder


def _passages(config: WikiSearchConfig) -> CorpusConfig:
    return CorpusConfig(sources=config.passages, max_document_chars=_PASSAGE_CHARS)


def check_tools(config: ToolsConfig) -> None:
    """Refuse unknown tools and missing passages without building anything.

    Raises: ConfigError naming the tool or the source.
    """
    check_tool_names(config.enabled)
    if "WikiSearch" in config.enabled:
        corpus_digest(_passages(config.wiki_search))
