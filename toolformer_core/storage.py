"""Where shards lie: a local folder, or a folder of any file system that fsspec knows, by its URL.

A file is there as a whole or not at all: a local one is moved into place, an object store gets it
in one request. (Elsewhere, as over SFTP, half a file may stay; to read it is refused.) Credentials
and addresses come from where the file system's own client looks for them (of S3: AWS_ACCESS_KEY_ID,
AWS_ENDPOINT_URL, ~/.aws ...), never from settings.
"""

import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec

from toolformer_core.errors import ConfigError, TransientStorageError

FILE_SYSTEM_OPTIONS = {"use_listings_cache": False}
"""Other machines write, too: what a client remembers of a folder is not to be trusted."""

# Clients of object stores have errors of their own, which none may import that has not the client.
_CLIENT_ERRORS = ("botocore.exceptions.BotoCoreError", "botocore.exceptions.ClientError")
_OUTAGES = ("botocore.exceptions.ConnectionError", "botocore.exceptions.HTTPClientError")
_MARK = ".toolformer-storage"


def is_local(path: str) -> bool:
    """Whether it is a path of this machine, not a URL."""
    return "://" not in path


def normal_folder(folder: str) -> str:
    """A folder of shards as it is written in references: a URL, or an absolute path."""
    protocol, separator, path = folder.rpartition("://")
    if protocol in ("", "file"):
        return str(Path(path).absolute())
    return protocol + separator + path.rstrip("/")


def file_system(url: str) -> tuple[Any, str]:  # Any: an fsspec file system
    """The file system of a URL, and the path in it.

    Raises: ConfigError if its protocol is unknown, or the package that speaks it is missing.
    """
    try:
        system, path = fsspec.core.url_to_fs(url, **FILE_SYSTEM_OPTIONS)
    except (ValueError, ImportError) as error:
        raise ConfigError(
            f"storage {url}: {error}; expected the URL of a folder, as in s3://BUCKET/PREFIX, and "
            'the package of its protocol, as in pip install "toolformer-prefect[s3]"'
        ) from error
    return system, path


def check_storage(folder: str) -> None:
    """Write a mark into a folder of shards, which shows that all else can be written.

    Raises: ConfigError if it cannot; TransientStorageError if it cannot be reached.
    """
    try:
        write_bytes(f"{folder}/{_MARK}", b"Shards and results of toolformer\n")
    except OSError as error:
        raise ConfigError(f"storage {folder}: cannot be written ({error})") from error


def write_bytes(path: str, content: bytes) -> None:
    """Write a file as a whole, over an older one if there is one.

    Raises: OSError of a local file; ConfigError, TransientStorageError as `_reaching`.
    """
    if is_local(path):
        _write_local(Path(path), content)
        return
    system, inner = file_system(path)
    try:
        with _reaching(path):
            # Object stores have no folders, only buckets, which it would make; their clients are
            # asynchronous.
            if not system.async_impl:
                system.makedirs(inner.rpartition("/")[0], exist_ok=True)
            system.pipe_file(inner, content)
    except FileNotFoundError as error:
        raise _refusal(path, error) from error


def temporary_path(path: Path) -> Path:
    """Where a file is written before it is moved to `path`: no other writer has this name.

    A process id would not do: containers that share a folder have the same ones.
    """
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


def _write_local(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    with temporary.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def read_bytes(path: str, last: int | None = None) -> bytes:
    """A whole file, or so many bytes at its end.

    Raises: FileNotFoundError if it is not there; else as `write_bytes`.
    """
    if is_local(path):
        with Path(path).open("rb") as stream:
            if last is not None:
                stream.seek(-min(last, stream.seek(0, os.SEEK_END)), os.SEEK_END)
            return stream.read()
    system, inner = file_system(path)
    with _reaching(path):
        return bytes(system.cat_file(inner, start=None if last is None else -last))


def file_size(path: str) -> int:
    """Bytes of a file.

    Raises: as `read_bytes`.
    """
    if is_local(path):
        return Path(path).stat().st_size
    system, inner = file_system(path)
    with _reaching(path):
        return int(system.size(inner))


@contextmanager
def _reaching(path: str) -> Iterator[None]:
    """Make of what a file system's client raises an error that says whether to try again.

    Raises: FileNotFoundError as it is; ConfigError if access is refused; TransientStorageError of
        an outage.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except PermissionError as error:
        raise _refusal(path, error) from error
    except _named(_CLIENT_ERRORS) as error:
        if not isinstance(error, _named(_OUTAGES)):
            raise _refusal(path, error) from error
        raise TransientStorageError(f"storage {path}: {_reason(error)}; run again") from error


def _refusal(path: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"storage {path}: {_reason(error)}; expected a bucket or folder that exists, and "
        "credentials in the environment that may read and write it"
    )


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _named(names: tuple[str, ...]) -> tuple[type[Exception], ...]:
    """OSError, and the exceptions of these names whose package has been imported."""
    parts = (name.rpartition(".") for name in names)
    loaded = (getattr(sys.modules[m], name) for m, _, name in parts if m in sys.modules)
    return (OSError, *loaded)
