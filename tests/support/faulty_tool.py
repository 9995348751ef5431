"""A function that goes wrong in every way that a tool can."""

import ctypes
import os
import signal
from pathlib import Path

_KEPT = []


class Private(Exception):
    """An error of its own."""


class NotForPickle(Exception):
    """An error that cannot be read in another process."""

    def __init__(self, *, response):
        super().__init__("at 0x1")
        self.response = response


def _loop(_):
    while True:
        pass


def _leak(_):
    while True:
        _KEPT.append(bytearray(10_000_000))


def _keep(megabytes):
    _KEPT.append(bytearray(int(megabytes) * 1_000_000))
    return "kept"


def _raise(_):
    raise Private("at 0x1")


def _raise2(_):
    raise NotForPickle(response=1)


_FAULTS = {
    "loop": _loop,
    "native": lambda _: ctypes.CDLL(None).sleep(60),
    "kill": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    "crash": lambda _: ctypes.string_at(0),
    "exit": lambda _: os._exit(3),
    "leak": _leak,
    "keep": _keep,
    "bytes": lambda _: b"\x00\xff",
    "raise": _raise,
    "raise2": _raise2,
    "big": lambda _: "x" * 10_000_000,
    "pid": lambda _: str(os.getpid()),
}


def do(what: str) -> str:
    """Does what the first word of its argument says."""
    name, _, rest = what.partition(" ")
    return _FAULTS[name](rest)


def is_alive(pid):
    """Whether there is such a process, and it is no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
