"""Benchmarks by name: generated sets, and sets read from a file."""

from pathlib import Path

from toolformer_core.benchmarks.base import Benchmark
from toolformer_core.benchmarks.dateset import dateset
from toolformer_core.benchmarks.word_problems import generated_word_problems, read_word_problems
from toolformer_core.errors import ConfigError

GENERATED = {"dateset": dateset, "word_problems": generated_word_problems}
FROM_FILE = {"asdiv": read_word_problems, "svamp": read_word_problems}
_DEFAULT_SIZE = 200


def load_benchmark(spec: str, limit: int | None, seed: int) -> Benchmark:
    """The benchmark of `NAME` or `NAME=PATH`, cut to `limit` items.

    Raises: ConfigError naming the known benchmarks or the missing file.
    """
    name, _, path = spec.partition("=")
    if name in GENERATED and not path:
        return GENERATED[name](limit or _DEFAULT_SIZE, seed)
    if name not in FROM_FILE:
        known = ", ".join([*GENERATED, *(f"{file}=PATH" for file in FROM_FILE)])
        raise ConfigError(f"unknown benchmark {spec!r}; known benchmarks: {known}")
    if not path or not Path(path).is_file():
        raise ConfigError(f"benchmark {name}: no file {path!r}; pass --benchmark {name}=PATH")
    benchmark = FROM_FILE[name](name, Path(path))
    return Benchmark(
        name=name,
        metric=benchmark.metric,
        items=benchmark.items[:limit],
        is_right=benchmark.is_right,
    )
