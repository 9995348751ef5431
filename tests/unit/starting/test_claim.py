"""Whose run an output folder holds, and where models are fine-tuned."""

import json

import pytest

from flows.starting.claim import check_gate, check_training_device, claim_output
from tasks.output.record import RUN_FILE
from toolformer_core.config.overrides import edit
from toolformer_core.config.presets import smoke
from toolformer_core.errors import ConfigError
from toolformer_core.evaluation.gate import GateConfig


def steps_of(root):
    return json.loads((root / RUN_FILE).read_text())["config"]["finetune"]["num_steps"]


def test_claim_output_of_a_refused_run_is_free_for_another_configuration(tmp_path):
    """It left its settings, and the failure in the result store."""
    claim_output(edit(smoke(), ["finetune.num_steps=7"]), tmp_path, update=False)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "failed").touch()
    claim_output(edit(smoke(), ["finetune.num_steps=8"]), tmp_path, update=False)
    assert steps_of(tmp_path) == 8


@pytest.mark.parametrize(
    "work", ["corpus/all/abcd/part-00000.parquet", "finetune/all/abcd/checkpoint-2", "model"]
)
def test_claim_output_with_work_of_another_configuration_is_refused(tmp_path, work):
    first = edit(smoke(), ["finetune.num_steps=7"])
    claim_output(first, tmp_path, update=False)
    (tmp_path / work).mkdir(parents=True)
    claim_output(first, tmp_path, update=False)
    other = edit(smoke(), ["finetune.num_steps=8"])
    with pytest.raises(ConfigError, match=r"finetune\.num_steps was '7', now '8'"):
        claim_output(other, tmp_path, update=False)
    claim_output(other, tmp_path, update=True)


@pytest.mark.parametrize("device", ["cuda:1", "nonsense", "mps", ""])
def test_check_training_device_refuses_what_training_would_not_take(device):
    with pytest.raises(ConfigError, match="takes cpu or cuda; choose a GPU with CUDA_VISIBLE_DEV"):
        check_training_device(device)


def test_check_training_device_takes_the_cpu():
    check_training_device("cpu")


GATE = GateConfig()


def test_check_gate_takes_its_own_defaults():
    check_gate(GATE, 0)


@pytest.mark.parametrize(
    ("setting", "spec", "found", "expected"),
    [
        ("benchmark", GATE.texts, "perplexity", "answer"),
        ("texts", "word_problems", "answer", "perplexity"),
    ],
)
def test_check_gate_refuses_a_benchmark_of_another_kind(setting, spec, found, expected):
    gate = GATE.model_copy(update={setting: spec})
    message = f"gate.{setting} {spec}: a benchmark of kind {found}; expected one of kind {expected}"
    with pytest.raises(ConfigError, match=message):
        check_gate(gate, 0)
