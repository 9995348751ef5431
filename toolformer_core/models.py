"""From a model's name to a folder that transformers loads, and to a loaded adapter.

A name is a folder, a hub id, a GGUF file, or package://PACKAGE/FILE.gguf. GGUF weights are
de-quantised once into a safetensors folder: a GGUF-loaded model refuses `save_pretrained`, so the
model is rebuilt from its config and state dict, and its logits are compared before it is saved.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from toolformer_core.fingerprint import Reference

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRef(Reference):
    """A model folder and the digest of its configuration, tokenizer, weights and dtype."""

    path: str
    digest: str
    dtype: str

    @property
    def identity(self) -> str:
        """Not where the folder lies."""
        return self.digest


def folder_digest(folder: Path, dtype: str) -> str:
    """Digest of a model folder's content, 16 hexadecimal characters."""
    hasher = hashlib.sha256(dtype.encode())
    patterns = ("config.json", "tokenizer.json", *_WEIGHTS)
    for path in sorted(path for pattern in patterns for path in folder.glob(pattern)):
        hasher.update(path.name.encode())
        with path.open("rb") as stream:
            hasher.update(hashlib.file_digest(stream, "sha256").digest())
    return hasher.hexdigest()[:16]
