"""Locks, so that two pipelines on the same folder compute each shard once.

Prefect takes the lock of a cache key before it looks whether a result is there, and frees it when
the result is stored: whoever waited finds the result. Its own lock files outlive a process that was
killed, and the next run would wait for ever. These are locks of the kernel (filelock), which are
free as soon as their holder is dead.

They lie beside the shards, in the output folder or a storage that is a folder, too: they part the
processes of one machine, or of several that share that folder over a file system with locks.
Pipelines that share shards through an object store have locks in their output folders, and may
compute a shard twice. On equal devices, and if tools and servers answer alike, both write the same
rows and nothing but time is lost; if not, the last one's shard is not what the other's manifest
says, and reading it is refused until that one is run again.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from prefect.cache_policies import CachePolicy
from prefect.locking.protocol import LockManager
from prefect.results import ResultStore
from prefect.transactions import IsolationLevel

LOCKS = "locks"
"""Folder of the locks, in an output folder, a storage and the folder shared by runs."""
_POLL_SECONDS = 0.1


def file_lock(folder: Path, name: str) -> FileLock:
    """The lock NAME.lock in a folder, for a `with`; the same thread may take it but once."""
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"{name}.lock", poll_interval=_POLL_SECONDS, thread_local=False)


def one_at_a_time(policy: CachePolicy, folder: Path) -> CachePolicy:
    """The cache policy under which equal task runs wait for one another."""
    return policy.configure(
        isolation_level=IsolationLevel.SERIALIZABLE, lock_manager=FileLocks(folder)
    )


@dataclass
class _Hold:
    """A lock that is held: for which transaction, and by which thread or coroutine."""

    holder: str
    owner: str
    lock: FileLock


class FileLocks(LockManager):
    """Prefect's locks by key, as files KEY.lock in a folder; threads exclude one another too.

    A copy of it, as a task takes to another process, has the same files and holds nothing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[str, _Hold] = {}

    def __reduce__(self) -> tuple[type["FileLocks"], tuple[Path]]:
        return FileLocks, (self._folder,)

    def acquire_lock(
        self,
        key: str,
        holder: str,
        acquire_timeout: float | None = None,
        hold_timeout: float | None = None,
    ) -> bool:
        """Take a lock within so many seconds (None: wait for it); whether it was taken.

        A lock is held until it is released or its process ends; no `hold_timeout` is needed.
        """
        owner = ResultStore.generate_default_holder()
        hold = self._held.get(key)
        if hold and owner == hold.owner:
            # A task run whose cached result could not be read tries again with a new transaction,
            # and Prefect never releases the lock of the first.
            hold.holder = holder
            return True
        lock = file_lock(self._folder, key)
        try:
            lock.acquire(timeout=-1 if acquire_timeout is None else acquire_timeout)
        except Timeout:
            return False
        self._held[key] = _Hold(holder, owner, lock)
        return True

    async def aacquire_lock(
        self,
        key: str,
        holder: str,
        acquire_timeout: float | None = None,
        hold_timeout: float | None = None,
    ) -> bool:
        """As acquire_lock."""
        try:
            async with asyncio.timeout(acquire_timeout):
                while not self.acquire_lock(key, holder, acquire_timeout=0):
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            return False
        return True

    def release_lock(self, key: str, holder: str) -> None:
        """Free a lock.

        Raises: ValueError if that holder does not hold it.
        """
        if not self.is_lock_holder(key, holder):
            raise ValueError(f"{holder} does not hold the lock of {key}")
        self._held.pop(key).lock.release()

    def is_locked(self, key: str) -> bool:
        """Whether anyone holds the lock, here or in another process."""
        return key in self._held or not self.wait_for_lock(key, timeout=0)

    def is_lock_holder(self, key: str, holder: str) -> bool:
        """Whether that holder of this process holds the lock."""
        hold = self._held.get(key)
        return hold is not None and hold.holder == holder

    def wait_for_lock(self, key: str, timeout: float | None = None) -> bool:
        """Whether the lock becomes free within so many seconds (None: wait for it)."""
        try:
            with file_lock(self._folder, key).acquire(timeout=-1 if timeout is None else timeout):
                return True
        except Timeout:
            return False

    async def await_for_lock(self, key: str, timeout: float | None = None) -> bool:
        """As wait_for_lock."""
        try:
            async with asyncio.timeout(timeout):
                while self.is_locked(key):
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            return False
        return True
