"""What a process of ours has started ends with it, also when it is killed.

Prefect's temporary server, the processes of accelerate, Dask or Ray, servers of tools: after a
SIGKILL they would go on for ever, and some work in the folder that the next run works in.
"""

import atexit
import functools
import os
import subprocess
import uuid

_MARK = "TOOLFORMER_PROCESS"
_WATCH = f"""
read -r _ && exit
for file in $(grep -lszx "{_MARK}=$0" /proc/[0-9]*/environ); do
    file=${{file%/environ}}
    kill -9 "${{file#/proc/}}"
done
"""
"""Reads a line if all is well, and the end of the pipe if the process died."""


@functools.cache
def end_children_with_us() -> None:
    """From here on, if this process dies, all that it has started are killed.

    A shell waits at a pipe that this process alone holds, and finds the others by a mark in their
    environment. It needs Linux's /proc; elsewhere it does nothing.
    """
    mark = uuid.uuid4().hex
    reading, writing = os.pipe()
    watch = subprocess.Popen(
        ["sh", "-c", _WATCH, mark],
        stdin=reading,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={name: value for name, value in os.environ.items() if name != _MARK},
        start_new_session=True,  # no signal to our group reaches it
    )
    os.close(reading)
    watch.returncode = 0  # nobody will wait for it, and Popen is not to warn of that
    os.environ[_MARK] = mark
    atexit.register(os.write, writing, b"\n")
