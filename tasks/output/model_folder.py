"""toolformer.json: what a tuned model's folder says of it."""

import json
from pathlib import Path

from tasks.output.json_file import _whole_file, write_whole
from toolformer_core.config.base import ModelConfig
from toolformer_core.config.pipeline import DecodeConfig
from toolformer_core.config.tools import ToolsConfig

MODEL_FILE = "toolformer.json"


CALL_RULE = "call_rule"
"""Key in both: when calls start, and who says so."""


def read_model_description(folder: Path) -> tuple[ModelConfig, ToolsConfig, DecodeConfig] | None:
    """Base model (and dtype), tools and decoding; None for a model that knows no tools.

    A model that was made in bfloat16 runs elsewhere in what the device there multiplies: its dtype
    is auto. Only float32 is left as it was set.

    Raises: ConfigError if the file is broken.
    """
    path = folder / MODEL_FILE
    if not path.is_file():
        return None
    with _whole_file(path, "restore it, or fine-tune again, which writes it"):
        content = json.loads(path.read_text(encoding="utf-8"))
        taken = content["dtype"]  # an older version wrote no other, and took what was set
        base = ModelConfig(
            name_or_path=content["base_model"], dtype=content.get("dtype_setting", taken)
        )
        return (
            base.model_copy(update={"dtype": "auto"}) if base.dtype == "bfloat16" else base,
            ToolsConfig.model_validate(content["tools"]),
            DecodeConfig.model_validate(content["decode"]),
        )


def write_decoding(folder: Path, decode: DecodeConfig, origin: str) -> None:
    """Put decoding settings into toolformer.json of a tuned model, and where they come from."""
    path = folder / MODEL_FILE
    content = json.loads(path.read_text())
    content |= {"decode": decode.model_dump(mode="json"), CALL_RULE: {"origin": origin}}
    write_whole(path, json.dumps(content, indent=1))
