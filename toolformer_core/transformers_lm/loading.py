"""From a model's name to a folder that transformers loads, and to a loaded adapter.

A name is a folder, a hub id, a GGUF file, or package://PACKAGE/FILE.gguf. GGUF weights are
de-quantised once into a safetensors folder: a GGUF-loaded model refuses `save_pretrained`, so the
model is rebuilt from its config and state dict, and its logits are compared before it is saved.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from toolformer_core.config.base import ModelConfig
from toolformer_core.errors import ConfigError
from toolformer_core.models import _WEIGHTS, ModelRef, folder_digest
from toolformer_core.sources import resolve_package_path
from toolformer_core.transformers_lm.adapter import HFLanguageModel
from toolformer_core.transformers_lm.arithmetic import taken_dtype, warn_if_emulated

_STAMP = "converted_from.json"


def resolve_model(config: ModelConfig, home: Path, device: str) -> ModelRef:
    """The model as a local folder; converts or downloads it if needed.

    Of `auto` the reference has the dtype that the device takes.

    Raises: ConfigError if the name is neither a usable folder or file nor a hub model.
    """
    name = resolve_package_path(config.name_or_path)
    if name.endswith(".gguf"):
        folder = _converted_gguf(Path(name), home)
    elif Path(name).is_dir():
        folder = Path(name)
    else:
        folder = _downloaded(name, config.revision)
    _check_folder(folder)
    dtype = settled(config, device).dtype
    return ModelRef(path=str(folder.absolute()), digest=folder_digest(folder, dtype), dtype=dtype)


def check_device(device: str) -> None:
    """Nothing, if torch can use the device.

    Raises: ConfigError if it cannot.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch without CUDA
        first = str(error).splitlines()[0]
        raise ConfigError(f"device {device!r} cannot be used: {first}") from error


def load_model(ref: ModelRef, device: str, token_budget: int) -> HFLanguageModel:
    """Load a model folder for inference."""
    _hide_progress_bars()
    warn_if_emulated(ref.dtype, device)  # a worker's device may be another than the flow's
    model: Any = AutoModelForCausalLM.from_pretrained(ref.path, dtype=getattr(torch, ref.dtype))
    tokenizer = AutoTokenizer.from_pretrained(ref.path)
    return HFLanguageModel(model.to(device).eval(), tokenizer, token_budget)


def _hide_progress_bars() -> None:
    """Loading takes seconds; transformers' bars would only break up our own."""
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # untyped in transformers


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise ConfigError(f"model {folder}: no config.json; expected a transformers model folder")
    if not any(path for pattern in _WEIGHTS for path in folder.glob(pattern)):
        raise ConfigError(
            f"model {folder}: no weights ({' or '.join(_WEIGHTS)}); save the model again"
        )


def _downloaded(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "README.md"]
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
        if not any(folder.glob("*.safetensors")):  # an older model
            snapshot_download(name, revision=revision, allow_patterns=["pytorch_model*"])
        return folder
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ConfigError(
            f"model {name!r}: not a folder, not a GGUF file, and the hub did not give it "
            f"({type(error).__name__}); pass a folder with config.json and *.safetensors"
        ) from error


def _converted_gguf(path: Path, home: Path) -> Path:
    """The safetensors folder of a GGUF file, made on first use."""
    if not path.is_file():
        raise ConfigError(f"model {path}: no such GGUF file")
    with path.open("rb") as stream:
        identity = hashlib.file_digest(stream, "sha256").hexdigest()
    for folder in (home / "model", home / f"model-{identity[:12]}"):
        stamp = folder / _STAMP
        if not folder.exists():
            home.mkdir(parents=True, exist_ok=True)
            with FileLock(home / f"{folder.name}.lock"):
                if not folder.exists():  # another run may have converted it meanwhile
                    _convert_gguf(path, folder, {"file": path.name, "sha256": identity})
        if stamp.is_file() and json.loads(stamp.read_text())["sha256"] == identity:
            return folder
    raise ConfigError(f"model {path}: {folder} is not its conversion; delete that folder")


def _convert_gguf(path: Path, folder: Path, stamp: Mapping[str, str]) -> None:
    """De-quantise a GGUF file into a bfloat16 safetensors folder with this stamp.

    Raises: ConfigError if the rebuilt model's float32 logits differ from the loaded one's.
    """
    _hide_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    settings = loaded.config.to_dict()
    settings.pop("quantization_config", None)
    build: Any = AutoModelForCausalLM.from_config
    rebuilt = build(type(loaded.config)(**settings))
    rebuilt.load_state_dict(loaded.state_dict())
    probe = torch.tensor([tokenizer.encode("The capital of France is Paris, and 3 + 4 = 7.")])
    with torch.inference_mode():
        before, after = loaded.eval()(probe).logits, rebuilt.eval()(probe).logits
        difference = float((before - after).abs().max())
    if difference > 1e-4:
        raise ConfigError(f"model {path.name}: conversion changed its logits by {difference:.2g}")
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    rebuilt.to(torch.bfloat16).save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    (temporary / _STAMP).write_text(json.dumps(stamp))
    temporary.rename(folder)


def settled(config: ModelConfig, device: str) -> ModelConfig:
    """The settings with the dtype that the device takes."""
    return config.model_copy(update={"dtype": taken_dtype(config.dtype, device)})
