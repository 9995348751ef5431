"""Locks of task runs: between threads, between processes, and after a kill."""

import asyncio
import copy
import os
import pickle
import signal
import subprocess
import sys
import threading

import pytest

from tasks.running.locks import FileLocks

HOLD = """
import sys
from pathlib import Path
from tasks.running.locks import FileLocks
locks = FileLocks(Path(sys.argv[1]))
assert locks.acquire_lock("key", "child")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def locks(tmp_path):
    return FileLocks(tmp_path / "locks")


def in_thread(function, *arguments):
    """What a function returns in a thread of its own."""
    found = []
    thread = threading.Thread(target=lambda: found.append(function(*arguments)))
    thread.start()
    thread.join()
    return found[0]


def test_lock_held_is_refused_to_other_threads_and_keys_are_apart(locks):
    assert locks.acquire_lock("key", "a")
    assert not in_thread(locks.acquire_lock, "key", "b", 0)
    assert in_thread(locks.acquire_lock, "other", "b", 0)
    assert locks.is_locked("key")
    assert not locks.wait_for_lock("key", 0)
    locks.release_lock("key", "a")
    assert not locks.is_locked("key")
    assert locks.wait_for_lock("key")
    assert in_thread(locks.acquire_lock, "key", "b", 0)


def test_lock_of_another_holder_is_not_released(locks):
    assert locks.acquire_lock("key", "a")
    assert locks.is_lock_holder("key", "a")
    assert not locks.is_lock_holder("key", "b")
    with pytest.raises(ValueError, match="b does not hold the lock of key"):
        locks.release_lock("key", "b")
    assert locks.is_locked("key")


def test_lock_asked_for_again_by_its_thread_goes_to_the_new_holder(locks):
    assert locks.acquire_lock("key", "first try")
    assert locks.acquire_lock("key", "second try")
    locks.release_lock("key", "second try")
    assert not locks.is_locked("key")


def test_lock_copied_holds_nothing_and_excludes_the_original(locks):
    for other in (copy.deepcopy(locks), pickle.loads(pickle.dumps(locks))):
        assert locks.acquire_lock("key", "a")
        assert not other.is_lock_holder("key", "a")
        assert not other.acquire_lock("key", "a", 0)
        locks.release_lock("key", "a")
        assert other.acquire_lock("key", "a")
        other.release_lock("key", "a")


def test_lock_parts_eight_threads(locks):
    inside, most = [], []

    def work(holder):
        for _ in range(5):
            assert locks.acquire_lock("key", holder)
            inside.append(holder)
            most.append(len(inside))
            inside.remove(holder)
            locks.release_lock("key", holder)

    threads = [threading.Thread(target=work, args=(str(n),)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 40


def test_lock_of_a_killed_process_is_free(locks, tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path / "locks")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as child:
        assert child.stdout.readline() == "held\n"
        assert locks.is_locked("key")
        assert not locks.acquire_lock("key", "parent", 0)
        os.kill(child.pid, signal.SIGKILL)
        assert locks.acquire_lock("key", "parent")


def test_lock_is_taken_by_coroutines_in_turn(locks):
    async def work(holder):
        assert await locks.aacquire_lock("key", holder)
        assert not await locks.await_for_lock("key", 0)
        assert not await in_task(locks.aacquire_lock("key", "another", 0))
        await asyncio.sleep(0)
        locks.release_lock("key", holder)

    async def in_task(coroutine):
        return await asyncio.create_task(coroutine)

    async def all_of_them():
        await asyncio.gather(*(work(str(n)) for n in range(4)))
        assert await locks.await_for_lock("key", 1)

    asyncio.run(all_of_them())
