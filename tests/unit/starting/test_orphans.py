"""What a process has started: ended when it is killed, left alone when it ends well."""

import contextlib
import signal
import subprocess
import sys

import psutil
import pytest

PARENT = """
import subprocess, sys
from flows.starting.orphans import end_children_with_us
end_children_with_us()
end_children_with_us()
print(subprocess.Popen(["sleep", "600"], start_new_session=True).pid, flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def parent_and_child():
    """A process under watch, and what it has started."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", PARENT], text=True, **pipes) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        try:
            yield parent, child
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_child_of_a_killed_process_is_killed():
    with parent_and_child() as (parent, child):
        parent.send_signal(signal.SIGKILL)
        gone, _ = psutil.wait_procs([child], 30)
        assert gone


def test_child_of_a_process_that_ends_well_goes_on():
    with parent_and_child() as (parent, child):
        watches = psutil.Process(parent.pid).children()
        watches.remove(child)
        parent.stdin.close()
        assert parent.wait() == 0
        psutil.wait_procs(watches, 30)
        assert child.status() == psutil.STATUS_SLEEPING
