"""Loaded models and tools, once per process; tasks receive references only."""

import datetime
import functools
import threading
from dataclasses import dataclass
from pathlib import Path

from toolformer_core.hf_lm import HFLanguageModel
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


@functools.lru_cache(maxsize=32)
def get_tool(ref: ToolRef, *, at_inference: bool = False) -> Tool:
    """The tool for annotation, or with today's date at inference."""
    return build_tool(
        ref.name,
        index_folder=Path(ref.index_folder) if ref.index_folder else None,
        max_snippet_chars=ref.max_snippet_chars,
        today=datetime.date.today if at_inference else None,
    )
