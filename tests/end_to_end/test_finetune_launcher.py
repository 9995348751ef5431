"""Fine-tuning in two processes that accelerate starts: the same loss as in one."""

import dataclasses
import json
import subprocess
import sys

import pytest
from transformers import AutoModelForCausalLM

from tests.support.finetune_job import finetune_job, two_on_cpu
from toolformer_core.errors import ToolformerError
from toolformer_core.finetune_process import launch_job, run_job


@pytest.fixture
def job(tmp_path, tiny_llama_folder):
    return finetune_job(tmp_path, tiny_llama_folder)


def test_two_processes_have_the_curves_of_one_and_leave_a_model(job, tmp_path):
    """Tolerance 1e-4: the same tokens, added up in another order, in float32."""
    one = run_job(job)
    told = []
    two = launch_job(
        dataclasses.replace(job, folder=tmp_path / "two"),
        two_on_cpu(tmp_path),
        lambda step, figures: told.append((step, figures)),
    )
    assert two.curves.keys() == one.curves.keys()
    for name, curve in one.curves.items():
        assert [step for step, _ in two.curves[name]] == [step for step, _ in curve]
        expected = [value for _, value in curve]
        assert [value for _, value in two.curves[name]] == pytest.approx(expected, rel=1e-4)
        assert (
            tuple((s, figures[name]) for s, figures in told if name in figures) == two.curves[name]
        )
    assert (two.num_train, two.num_dev, two.chosen_step) == (
        one.num_train,
        one.num_dev,
        one.chosen_step,
    )
    AutoModelForCausalLM.from_pretrained(two.model.path)


def test_launcher_that_cannot_start_is_one_line(job, tmp_path):
    config = tmp_path / "bad.yaml"
    config.write_text("num_processes: many\n")
    with pytest.raises(ToolformerError, match=r"bad\.yaml ended with exit code 1"):
        launch_job(job, config, None)


def test_loss_of_a_sharded_model_and_its_gradients_equal_those_of_one():
    """FSDP's own sharding on CPUs; accelerate starts it on GPUs alone."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, "-m", "tests.support.sharded_loss"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["loss"] == pytest.approx(figures["expected"], rel=1e-6)
    assert figures["difference"] < 1e-6
