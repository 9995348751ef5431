"""A PostgreSQL server of Debian's package in a temporary folder, with the databases that are asked
for; it ends with the test."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.support.prefect_service import wait_for

USER = "toolformer"


def programs() -> Path | None:
    """Where initdb and postgres lie; None where they are not installed."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    found = shutil.which("initdb") or next(iter(folders[::-1]), None)
    return Path(found).resolve().parent if found else None


@contextlib.contextmanager
def running(databases: list[str]) -> Iterator[dict[str, str]]:
    """The address of each database, as user@host:port/name."""
    bin_folder = programs()
    assert bin_folder is not None
    with tempfile.TemporaryDirectory(prefix="toolformer-postgres-") as folder:
        # PostgreSQL refuses to run as root.
        as_user: list[str] = []
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres")
            as_user = ["runuser", "-u", "postgres", "--"]
        data, log = f"{folder}/data", Path(folder, "log")
        _run(as_user, f"{bin_folder}/initdb", "-D", data, "-U", USER, "-A", "trust", "--no-sync")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [f"{bin_folder}/postgres", "-D", data, "-p", str(port), "-F", "-c"]
        command += ["listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
        with log.open("w") as stream:
            server = subprocess.Popen([*as_user, *command], stderr=stream, start_new_session=True)
        try:
            at = ["-h", "127.0.0.1", "-p", str(port), "-U", USER]
            is_ready = [f"{bin_folder}/pg_isready", *at]
            wait_for(lambda: not _code(is_ready), 60, f"PostgreSQL answers: {log.read_text()}")
            for name in databases:
                _run([], f"{bin_folder}/createdb", *at, name)
            yield {name: f"{USER}@127.0.0.1:{port}/{name}" for name in databases}
        finally:
            os.killpg(server.pid, signal.SIGINT)  # disconnects its clients
            server.wait(60)


def _code(command: list[str]) -> int:
    return subprocess.run(command, check=False, capture_output=True).returncode


def _run(as_user: list[str], *command: str) -> None:
    done = subprocess.run(
        [*as_user, *command], check=False, capture_output=True, text=True, cwd="/"
    )
    assert done.returncode == 0, done.stderr
