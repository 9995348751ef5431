"""What the stages need before they start: the model as a folder, the tools with their data."""

from collections.abc import Iterator
from pathlib import Path

from tasks.loaded_tools import ToolRef, open_tool, recorded_tool, tool_digest
from tasks.running.locks import LOCKS, file_lock
from tasks.running.policies import effect_task
from toolformer_core.config.base import ModelConfig
from toolformer_core.config.pipeline import CorpusConfig
from toolformer_core.config.runtime import Runtime
from toolformer_core.config.tools import ToolsConfig, WikiSearchConfig
from toolformer_core.corpus import STAGE_VERSION, corpus_digest, read_corpus
from toolformer_core.fingerprint import fingerprint
from toolformer_core.models import ModelRef
from toolformer_core.records import Document
from toolformer_core.tools.registry import SEARCHING_TOOLS
from toolformer_core.tools.search_index import INDEX_FORMAT, Passage, build_index, passage_of
from toolformer_core.transformers_lm.loading import resolve_model, settled

_PASSAGE_CHARS = 600


@effect_task
def prepare_model(config: ModelConfig, runtime: Runtime) -> ModelRef:
    """The base model as a local folder."""
    return resolve_model(config, runtime.home, runtime.device)


@effect_task
def prepare_tools(config: ToolsConfig, runtime: Runtime) -> list[ToolRef]:
    """References of the enabled tools, the search index built if it is not there."""
    return tool_refs(config, runtime)


def tool_refs(config: ToolsConfig, runtime: Runtime) -> list[ToolRef]:
    """References of the enabled tools; see prepare_tools."""
    return [tool_ref(name, config, runtime) for name in config.enabled]


def tool_ref(name: str, config: ToolsConfig, runtime: Runtime) -> ToolRef:
    """The reference of one tool, its search index built if it is not there.

    Raises: ConfigError for an unknown name, or a tool that lacks something.
    """
    searches = name in SEARCHING_TOOLS and runtime.replay is None
    index = search_index(config.wiki_search, runtime.home) if searches else None
    if name == "QA":  # a worker of another kind would take another dtype, and so read otherwise
        reader = settled(config.qa.reader, runtime.device)
        config = config.model_copy(update={"qa": config.qa.model_copy(update={"reader": reader})})
    replayed = runtime.replay
    tool = recorded_tool(name, replayed) if replayed else open_tool(name, config, index, runtime)
    return ToolRef(
        name=name, digest=tool_digest(tool), config=config, index_folder=index, runtime=runtime
    )


def search_index(config: WikiSearchConfig, home: Path) -> Path:
    """The folder of the passage index, absolute: the one of the settings, else built here."""
    folder = index_folder(config, home)
    if config.index is None and not folder.exists():
        with file_lock(home / LOCKS, folder.name):
            if not folder.exists():  # another run has built it meanwhile
                build_index(read_passages(config), folder)
    return folder


def index_folder(config: WikiSearchConfig, home: Path) -> Path:
    """Where the index is: as the settings say, else by the content of its sources."""
    if config.index is not None:
        return Path(config.index).absolute()
    digest = corpus_digest(_passages(config))
    return (home / "indexes" / fingerprint(digest, STAGE_VERSION, INDEX_FORMAT)).absolute()


def read_passages(config: WikiSearchConfig) -> Iterator[Passage]:
    """The passages of the sources, streamed."""
    rows = read_corpus(_passages(config))
    return (passage_of(row) for row in rows if isinstance(row, Document))


def _passages(config: WikiSearchConfig) -> CorpusConfig:
    return CorpusConfig(
        sources=config.passages, min_document_chars=1, max_document_chars=_PASSAGE_CHARS
    )


def check_tools(config: ToolsConfig, runtime: Runtime) -> None:
    """Refuse unknown tools and missing passages without building an index.

    Raises: ConfigError naming the tool or the source.
    """
    if runtime.replay is not None:
        for name in config.enabled:
            recorded_tool(name, runtime.replay)
        return
    if set(SEARCHING_TOOLS) & set(config.enabled):
        index_folder(config.wiki_search, runtime.home)
    for name in config.enabled:
        if name not in SEARCHING_TOOLS:
            open_tool(name, config, None, runtime)
