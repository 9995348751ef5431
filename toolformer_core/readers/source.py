"""Any source of texts, by its name: files, a data set of the hub, or a generator."""

from collections.abc import Iterator
from typing import Protocol

from toolformer_core.readers.files import open_files
from toolformer_core.readers.generated import (
    ONE_STEP_SCHEME,
    REASONING_GYM_SCHEME,
    open_generated,
    open_one_step,
)
from toolformer_core.readers.hub import HUB_SCHEME, open_hub
from toolformer_core.readers.rows import Row
from toolformer_core.sources import resolve_package_path


class Source(Protocol):
    """Where rows come from."""

    def rows(self, max_row_bytes: int) -> Iterator[Row]:
        """The rows in order, longer ones quarantined."""
        ...

    def identity(self) -> str:
        """Digest of the content: it changes when the rows do."""
        ...


def open_source(name: str, setting: str = "corpus.sources") -> Source:
    """The source of that name, which stands in a setting; its rows are not read yet.

    Raises: ConfigError if the name is of no known form, or names nothing.
    """
    if name.startswith(HUB_SCHEME):
        return open_hub(name, setting)
    if name.startswith(REASONING_GYM_SCHEME):
        return open_generated(name, setting)
    if name.startswith(ONE_STEP_SCHEME):
        return open_one_step(name, setting)
    return open_files(resolve_package_path(name), setting)
