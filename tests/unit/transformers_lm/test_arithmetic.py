"""Which arithmetic a device takes; the device is made up at its edge, torch's own questions."""

import logging

import pytest
import torch

from tasks.prepare import tool_ref
from toolformer_core.config.base import ModelConfig
from toolformer_core.config.runtime import Runtime
from toolformer_core.config.tools import QAConfig, ToolsConfig, WikiSearchConfig
from toolformer_core.models import folder_digest
from toolformer_core.transformers_lm import arithmetic
from toolformer_core.transformers_lm.arithmetic import multiplies_bfloat16, taken_dtype
from toolformer_core.transformers_lm.loading import load_model, resolve_model

NOTHING = {"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": False}


@pytest.fixture(autouse=True)
def nothing_said():
    """Each test is a process of its own, as far as what is said once in it."""
    for said in (arithmetic._say, arithmetic._warn):
        said.cache_clear()
    yield
    for said in (arithmetic._say, arithmetic._warn):
        said.cache_clear()


@pytest.fixture
def cpu(monkeypatch):
    """Makes up a CPU: the level that torch uses, what oneDNN says, and the instructions it has."""

    def make(level="AVX512", onednn=True, **instructions):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: level)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {**NOTHING, **instructions})
        monkeypatch.setattr(
            torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn, raising=False
        )

    return make


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        ({"avx512_bf16": True}, "bfloat16"),  # Zen 4, Cooper Lake
        ({"amx_bf16": True}, "bfloat16"),
        ({"level": "AMX", "amx_bf16": True}, "bfloat16"),
        ({}, "float32"),  # Skylake: oneDNN says yes to any AVX-512
        ({"level": "AVX2"}, "float32"),  # Zen 3
        ({"level": "AVX2", "avx512_bf16": True}, "float32"),  # ATEN_CPU_CAPABILITY=avx2
        ({"onednn": False, "avx512_bf16": True}, "float32"),  # ONEDNN_MAX_CPU_ISA=AVX2
        ({"level": "DEFAULT", "architecture": "aarch64"}, "bfloat16"),  # Graviton 3
        ({"level": "DEFAULT", "architecture": "aarch64", "onednn": False}, "float32"),
    ],
)
def test_taken_dtype_auto_on_a_cpu_is_what_it_multiplies(cpu, processor, expected):
    cpu(**processor)
    assert taken_dtype("auto", "cpu") == expected


@pytest.mark.parametrize(
    ("capability", "expected"), [((7, 5), False), ((8, 0), True), ((9, 0), True), ((12, 0), True)]
)
def test_multiplies_bfloat16_gpu_from_compute_capability_8(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert multiplies_bfloat16("cuda") is expected
    assert multiplies_bfloat16("cuda:1") is expected


def test_taken_dtype_auto_on_a_device_that_nothing_is_known_of_is_float32():
    assert taken_dtype("auto", "mps") == "float32"


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_taken_dtype_explicit_one_is_taken_everywhere(cpu, dtype):
    cpu(level="AVX2")
    assert taken_dtype(dtype, "cpu") == dtype


def warnings_of(caplog):
    return [record for record in caplog.records if record.levelno == logging.WARNING]


def test_emulated_bfloat16_is_warned_of_once_with_the_cure(
    cpu, caplog, tiny_llama_folder, tmp_path
):
    cpu(level="AVX2")
    config = ModelConfig(name_or_path=str(tiny_llama_folder), dtype="bfloat16")
    for _ in range(2):
        load_model(resolve_model(config, tmp_path, "cpu"), "cpu", 256)
    [warning] = warnings_of(caplog)
    assert "--set model.dtype=auto" in warning.getMessage()


def test_bfloat16_that_is_multiplied_and_float32_are_not_warned_of(cpu, caplog):
    cpu(avx512_bf16=True)
    taken_dtype("bfloat16", "cpu")
    cpu(level="AVX2")
    taken_dtype("float32", "cpu")
    taken_dtype("auto", "cpu")
    assert not warnings_of(caplog)


def test_taken_dtype_of_auto_is_said_once(cpu, caplog):
    cpu(avx512_bf16=True)
    with caplog.at_level(logging.INFO, logger=arithmetic.__name__):
        for _ in range(3):
            taken_dtype("auto", "cpu")
    assert len(caplog.records) == 1


@pytest.mark.parametrize(("level", "taken"), [("AVX512", "bfloat16"), ("AVX2", "float32")])
def test_resolve_model_auto_has_the_dtype_taken_and_its_digest(
    cpu, tiny_llama_folder, tmp_path, level, taken
):
    cpu(level=level, avx512_bf16=True)
    found = resolve_model(ModelConfig(name_or_path=str(tiny_llama_folder)), tmp_path, "cpu")
    explicit = ModelConfig(name_or_path=str(tiny_llama_folder), dtype=taken)
    assert found == resolve_model(explicit, tmp_path, "cpu")
    assert (found.dtype, found.digest) == (taken, folder_digest(tiny_llama_folder, taken))
    assert load_model(found, "cpu", 256).model.dtype == getattr(torch, taken)


@pytest.mark.parametrize(("level", "taken"), [("AVX512", "bfloat16"), ("AVX2", "float32")])
def test_tool_ref_of_qa_names_the_dtype_that_its_reader_took(
    cpu, tiny_llama_folder, tmp_path, level, taken
):
    """By which a worker of another kind reads alike."""
    cpu(level=level, avx512_bf16=True)
    (tmp_path / "passages.txt").write_text("The mill was built in 1922.")
    config = ToolsConfig(
        enabled=("QA",),
        wiki_search=WikiSearchConfig(passages=(str(tmp_path / "passages.txt"),)),
        qa=QAConfig(reader=ModelConfig(name_or_path=str(tiny_llama_folder))),
    )
    ref = tool_ref("QA", config, Runtime(root=tmp_path, home=tmp_path))
    assert ref.config.qa.reader.dtype == taken
