"""Loaded models, once per process; tasks receive references only.

torch is imported with the first model: a worker that calls tools needs none.
"""

import functools
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.running.policies import Inputs
from toolformer_core.config.pipeline import ProposerConfig
from toolformer_core.config.runtime import Runtime
from toolformer_core.errors import ConfigError
from toolformer_core.lm import LanguageModel
from toolformer_core.models import ModelRef

if TYPE_CHECKING:
    from toolformer_core.transformers_lm.adapter import HFLanguageModel

LOADING = threading.RLock()  # a tool may load a model


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotatorRef(Inputs):
    """What reads, continues and scores texts: the base model, or a server that proposes for it."""

    model: ModelRef
    proposer: ProposerConfig


@functools.lru_cache(maxsize=2)
def _model(ref: ModelRef, device: str, token_budget: int) -> "HFLanguageModel":
    from toolformer_core.transformers_lm.loading import load_model

    return load_model(ref, device, token_budget)


def get_model(ref: ModelRef, runtime: Runtime) -> "HFLanguageModel":
    """The loaded model; at most two stay in memory."""
    with LOADING:
        return _model(ref, runtime.device, runtime.token_budget)


def get_annotator(ref: AnnotatorRef, runtime: Runtime) -> LanguageModel:
    """What a reference stands for, loaded."""
    if ref.proposer.model is None:
        return get_model(ref.model, runtime)
    return _served(ref, runtime)


@functools.lru_cache(maxsize=2)
def _served(ref: AnnotatorRef, runtime: Runtime) -> LanguageModel:
    # Here, because few runs need the client's package.
    from toolformer_core.served_lm.adapter import ServedLanguageModel
    from toolformer_core.served_lm.completions import CompletionsClient

    proposer = ref.proposer
    if not runtime.proposer or proposer.model is None:
        raise ConfigError(f"proposer.model {proposer.model}: no address; pass --proposer URL")
    local = get_model(ref.model, runtime)
    client = CompletionsClient(runtime.proposer, proposer.model)
    return ServedLanguageModel(client, local, proposer, runtime.proposer_requests)
