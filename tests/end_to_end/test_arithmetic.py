"""model.dtype auto in a process that may not use AVX-512, as on a machine without it."""

import json
import os
import platform
import subprocess
import sys

import pytest

from tasks.output.model_folder import MODEL_FILE
from tests.support.tuned_folder import tuned_folder

pytestmark = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"), reason="torch's levels are those of x86"
)

_OPENED = """
import sys
from pathlib import Path
from tasks.inference import open_tuned_model
from toolformer_core.config.runtime import Runtime
home = Path(sys.argv[2])
tuned = open_tuned_model(Path(sys.argv[1]), None, {}, Runtime(root=home, home=home))
print(tuned.lm.model.dtype)
"""


def without_avx512(*command):
    """What a command says on standard output and on standard error."""
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        env={**os.environ, "ATEN_CPU_CAPABILITY": "avx2"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout, done.stderr


def test_model_tuned_in_bfloat16_runs_in_float32_where_that_is_emulated(
    calling_llama_folder, tmp_path
):
    folder = tuned_folder(calling_llama_folder, tmp_path / "tuned")
    told = json.loads((folder / MODEL_FILE).read_text())
    told |= {"dtype": "bfloat16", "dtype_setting": "auto"}
    (folder / MODEL_FILE).write_text(json.dumps(told))
    dtype, errors = without_avx512("-c", _OPENED, folder, tmp_path)
    assert dtype.strip() == "torch.float32"
    assert "emulates" not in errors


@pytest.mark.parametrize(
    ("dtype", "cores", "warnings"), [("auto", "cpu2-float32", 0), ("bfloat16", "cpu2", 1)]
)
def test_plan_without_avx512_reckons_with_its_cores(dtype, cores, warnings):
    command = (
        "-c",
        "from flows.cli.main import main; main()",
        "plan",
        "--documents",
        "1000",
        "--json",
    )
    found, errors = without_avx512(*command, "--set", f"model.dtype={dtype}")
    assert json.loads(found)["measured"]["from"].endswith(f" {cores}")
    assert errors.count("model.dtype bfloat16") == warnings
