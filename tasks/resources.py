"""Loaded models and tools, once per process; tasks receive references only."""

import datetime
import functools
import threading
from dataclasses import dataclass
from pathlib import Path

from toolformer_core.config import ProposerConfig, Runtime
from toolformer_core.errors import ConfigError
from toolformer_core.hf_lm import HFLanguageModel
from toolformer_core.lm import LanguageModel
from toolformer_core.models import ModelRef, load_model
from toolformer_core.tools.base import Tool
from toolformer_core.tools.registry import build_tool

_LOADING = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolRef:
    """A tool by name; `digest` covers its version, its prompt and its data."""

    name: str
    digest: str
    index_folder: str | None
    max_snippet_chars: int


@functools.lru_cache(maxsize=2)
def _model(ref: ModelRef, device: str, token_budget: int) -> HFLanguageModel:
    return load_model(ref, device, token_budget)


def get_model(ref: ModelRef, device: str, token_budget: int) -> HFLanguageModel:
    """The loaded model; at most two stay in memory."""
    with _LOADING:
        return _model(ref, device, token_budget)


def get_annotator(ref: ModelRef, proposer: ProposerConfig, runtime: Runtime) -> LanguageModel:
    """What reads, continues and scores texts: the base model, or a server that proposes for it."""
    if proposer.model is None:
        return get_model(ref, runtime.device, runtime.token_budget)
    return _served(ref, proposer, runtime)


@functools.lru_cache(maxsize=2)
def _served(ref: ModelRef, proposer: ProposerConfig, runtime: Runtime) -> LanguageModel:
    # Here, because few runs need the client's package.
    from toolformer_core.completions import CompletionsClient
    from toolformer_core.served_lm import ServedLanguageModel

    if runtime.proposer_url is None or proposer.model is None:
        raise ConfigError(f"proposer.model {proposer.model}: no address; pass --proposer URL")
    local = get_model(ref, runtime.device, runtime.token_budget)
    client = CompletionsClient(runtime.proposer_url, proposer.model)
    return ServedLanguageModel(client, local, proposer, runtime.proposer_requests)


@functools.lru_cache(maxsize=32)
def get_tool(ref: ToolRef, *, at_inference: bool = False) -> Tool:
    """The tool for annotation, or with today's date at inference."""
    return build_tool(
        ref.name,
        index_folder=Path(ref.index_folder) if ref.index_folder else None,
        max_snippet_chars=ref.max_snippet_chars,
        today=datetime.date.today if at_inference else None,
    )
