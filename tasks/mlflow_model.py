"""The tuned model as MLflow serves it: a pyfunc that runs the tools.

MLflow stores the model's folder and the name of this module, which loads it; nothing is pickled.
Where it is served, this project must be installed (`--env-manager local`); what the tools need,
such as a search index, lies in TOOLFORMER_HOME there, and is built if it is not.
"""

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from tasks.inference import TunedModel, change_decoding, open_tuned_model
from toolformer_core.config.runtime import Runtime
from toolformer_core.decoding.decode import Decoder
from toolformer_core.decoding.events import Generation
from toolformer_core.tools.base import NO_DOCUMENT

PARAMS = {
    "max_new_tokens": "long",
    "call_top_k": "long",
    "call_threshold": "double",
    "max_calls": "long",
    "temperature": "double",
    "top_p": "double",
    "seed": "long",
}
"""What a request may set beside the texts, with MLflow's types; left out: as in toolformer.json."""

OUTPUTS = ("text", "answer", "calls")
"""The columns of an answer, all texts."""

REQUIREMENTS = [f"toolformer-prefect=={version('toolformer-prefect')}"]


class ServedModel:
    """What MLflow calls; one request at a time, whose texts decode together."""

    def __init__(self, tuned: TunedModel) -> None:
        self._tuned = tuned
        self._lock = threading.Lock()

    def predict(
        self,
        model_input: pd.DataFrame,
        params: Mapping[str, Any] | None = None,  # Any: see PARAMS
    ) -> pd.DataFrame:
        """One row per text, which stand in the first column: text, answer, calls as JSON.

        Raises: ConfigError for a parameter out of range, or a text that is too long.
        """
        decode = change_decoding(self._tuned.decode, params or {})
        decoder = Decoder(self._tuned.lm, self._tuned.callers, decode)
        texts = [str(text) for text in model_input.iloc[:, 0]]
        with self._lock:
            generations = decoder.generate(texts, [NO_DOCUMENT] * len(texts))
        return pd.DataFrame([_row(g) for g in generations], columns=list(OUTPUTS))


def _row(generation: Generation) -> dict[str, str]:
    calls = json.dumps([asdict(call) for call in generation.calls], ensure_ascii=False)
    return {"text": generation.completion, "answer": generation.answer, "calls": calls}


def _load_pyfunc(
    path: str,
    model_config: Mapping[str, Any] | None = None,  # Any: MLflow's
) -> ServedModel:
    """The name and the arguments are MLflow's; the configuration may name a device."""
    home = Path(os.environ.get("TOOLFORMER_HOME", ".toolformer")).absolute()
    device = (model_config or {}).get("device", "cpu")
    runtime = Runtime(root=home / "mlflow-model", home=home, device=device)
    return ServedModel(open_tuned_model(Path(path), None, {}, runtime))
