"""Benchmarks by name: generated sets, and sets read from files or data sets of the hub."""

import functools
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from toolformer_core.benchmarks.base import Benchmark, BenchmarkItem
from toolformer_core.benchmarks.items import read_items
from toolformer_core.benchmarks.known import FILE_SETS, GENERATED, FileSet
from toolformer_core.benchmarks.rows import RowSource
from toolformer_core.errors import ConfigError, DataError, ToolformerError
from toolformer_core.fingerprint import fingerprint


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    """A set whose files are found."""

    name: str
    rows: RowSource
    beside: RowSource | None
    form: FileSet

    def items(self) -> Iterator[BenchmarkItem]:
        try:
            parse = self.form.parser(self.beside)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"benchmark {self.name}: what belongs to its files is of another form ({error}); "
                f"expected {self.form.expected}"
            ) from error
        yield from read_items(self.name, self.rows.rows(), parse, self.form.expected)

    def identity(self) -> str:
        return fingerprint(self.name, [rows.identity() for rows in self._sources()])

    def stamp(self) -> str:
        return fingerprint([rows.stamp() for rows in self._sources()])

    def _sources(self) -> list[RowSource]:
        return [self.rows, *([self.beside] if self.beside else [])]


def known_benchmarks() -> tuple[str, ...]:
    """How each known benchmark is named: NAME for one that needs no file, else NAME=PATH."""
    with_default = [name for name, form in FILE_SETS.items() if form.default]
    return (*GENERATED, *with_default, *(f"{name}=PATH" for name in FILE_SETS))


def load_benchmark(spec: str, limit: int | None, seed: int) -> Benchmark:
    """The benchmark of `NAME`, `NAME=PATH` or `NAME=hf:NAME/CONFIG:SPLIT`, cut to `limit` items.

    The seed is that of a generated set. A file is read once, and no further than is asked for.

    Raises: ConfigError naming the known benchmarks or the missing file; DataError naming a row that
    is not of the expected form.
    """
    name, _, source = spec.partition("=")
    if name in GENERATED and not source:
        benchmark = GENERATED[name].benchmark
        limit = GENERATED[name].num_items if limit is None else limit
        reading = _generated(name, seed)
    else:
        opened = _open(spec)
        benchmark = opened.form.benchmark
        reading = _reading(spec, opened.stamp())
    return replace(benchmark, name=name, items=reading.first(limit))


def benchmark_digest(spec: str, seed: int) -> str:
    """Digest of what a benchmark's items are made from: a file's content, or a generator.

    Raises: ConfigError as load_benchmark.
    """
    name, _, source = spec.partition("=")
    if source or name not in GENERATED:
        return _open(spec).identity()
    version = GENERATED[name].version
    if version is None:
        return fingerprint(load_benchmark(spec, None, seed).items)
    return fingerprint(name, seed, version())


def _open(spec: str) -> _Opened:
    name, _, source = spec.partition("=")
    form = FILE_SETS.get(name)
    if form is None:
        raise ConfigError(
            f"unknown benchmark {spec!r}; known benchmarks: {', '.join(known_benchmarks())}"
        )
    path = source or form.default
    cure = f"pass --benchmark {name}=PATH or {name}=hf:NAME/CONFIG:SPLIT with {form.expected}"
    if path is None:
        raise ConfigError(f"benchmark {name}: no file; {cure}")
    setting = f"benchmark {name}"
    return _Opened(
        name=name,
        rows=form.opens(path, setting, cure),
        beside=form.beside(path, setting),
        form=form,
    )


class _Reading:
    """Items that are read as they are asked for, and kept."""

    def __init__(self, start: Callable[[], Iterable[BenchmarkItem]]) -> None:
        self._start = start
        self._lock = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self._items: list[BenchmarkItem] = []
        self._rest = iter(self._start())

    def first(self, limit: int | None) -> tuple[BenchmarkItem, ...]:
        """The first items, all without a limit."""
        with self._lock:
            missing = None if limit is None else max(0, limit - len(self._items))
            try:
                self._items.extend(itertools.islice(self._rest, missing))
            except (ToolformerError, OSError, ValueError):
                self._begin()  # what follows a failure would look like the end
                raise
            return tuple(self._items[:limit])


@functools.lru_cache(maxsize=32)
def _reading(spec: str, stamp: str) -> _Reading:
    """One reading per content that a spec has had."""
    return _Reading(_open(spec).items)


@functools.lru_cache(maxsize=8)
def _generated(name: str, seed: int) -> _Reading:
    return _Reading(lambda: GENERATED[name].generate(seed))
