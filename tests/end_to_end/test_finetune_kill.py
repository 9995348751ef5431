"""Fine-tuning that is killed with SIGKILL, twice, and goes on: same curves, same weights."""

import dataclasses
import json
import os
import signal
import subprocess
import sys

import pytest
from safetensors.torch import load_file

from tests.support.finetune_job import finetune_job
from toolformer_core.finetune_process import ENDING, JOB, run_job


@pytest.fixture
def job(tmp_path, tiny_llama_folder):
    """A job on a shard of C*."""
    return finetune_job(tmp_path, tiny_llama_folder)


def train_in_child(job, kill_at=None):
    """Train in a process of its own, which is killed when it tells that step.

    The steps that it told, and its exit code.
    """
    job.folder.mkdir(exist_ok=True)
    file = job.folder / "job.json"
    file.write_bytes(JOB.dump_json(job))
    command = [sys.executable, "-m", "toolformer_core.finetune_process", str(file)]
    steps = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        for line in child.stdout:
            told = json.loads(line)
            steps += [told["step"]] if "train_loss" in told["figures"] else []
            if told["step"] == kill_at:
                os.kill(child.pid, signal.SIGKILL)
                break
    return steps, child.returncode


def test_finetune_killed_twice_ends_with_the_same_curves_and_weights(job, tmp_path):
    """Tolerance: none."""
    whole = run_job(job)
    parts = dataclasses.replace(job, folder=tmp_path / "parts")
    assert train_in_child(parts, kill_at=3) == ([1, 2, 3], -signal.SIGKILL)
    second, code = train_in_child(parts, kill_at=7)
    assert (second[0], code) == (3, -signal.SIGKILL)
    last, code = train_in_child(parts)
    assert (last, code) == ([7, 8, 9], 0)
    ending = ENDING.validate_json((parts.folder / "ending.json").read_bytes())
    assert ending.result.curves == whole.curves
    assert ending.result.chosen_step == whole.chosen_step
    expected = load_file(f"{whole.model.path}/model.safetensors")
    found = load_file(f"{ending.result.model.path}/model.safetensors")
    assert expected.keys() == found.keys()
    assert all(bool((found[name] == tensor).all()) for name, tensor in expected.items())
