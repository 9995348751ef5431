"""A model folder with toolformer.json, as the pipeline leaves one, and a server of it."""

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

from tasks.output.model_folder import MODEL_FILE
from toolformer_core.config.pipeline import DecodeConfig
from toolformer_core.config.tools import ToolsConfig

DECODE = DecodeConfig(call_top_k=1, max_new_tokens=24)


def tuned_folder(model: Path, folder: Path, tools: tuple[str, ...] = ("Calculator",)) -> Path:
    """A copy of a float32 model that calls these tools greedily."""
    shutil.copytree(model, folder)
    content = {
        "base_model": str(model),
        "dtype": "float32",
        "tools": ToolsConfig(enabled=tools).model_dump(mode="json"),
        "decode": DECODE.model_dump(mode="json"),
        "fingerprint": "",
    }
    (folder / MODEL_FILE).write_text(json.dumps(content))
    return folder


class ServerProcess:
    """`toolformer serve` in a process of its own; `address` is its API."""

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, "-c", "from flows.cli.main import main; main()", "serve"]
        self.process = subprocess.Popen(
            [*command, *map(str, arguments), "--port", "0"],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ},
        )
        self.said = self.process.stderr.readline()
        self.address = self.said.strip().rpartition(" at ")[2]

    def end(self, how: int = signal.SIGTERM) -> tuple[int, str]:
        """Exit code, and what it said on standard error since it listened."""
        self.process.send_signal(how)
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors


@contextmanager
def toolformer_serve(*arguments: object):
    """A server that is ended with the block."""
    server = ServerProcess(*arguments)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.end()
