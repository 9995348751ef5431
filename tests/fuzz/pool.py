"""A million inputs over processes, in chunks that are the same whatever the number of processes."""

import importlib
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache

from tqdm import tqdm

from tests.fuzz.harness import Subject, Tally, fuzz_drawn, fuzz_hypothesis, trace_memory, watched

CHUNK = {"drawn": 5_000, "hypothesis": 1_000}
HYPOTHESIS_SHARE = 50
"""One input in so many is drawn by hypothesis, which is slow."""


def subject_of(name: str) -> Subject:
    """The module that draws and checks the cases."""
    return importlib.import_module(f"tests.fuzz.{name}")


def chunks(num_inputs: int) -> Iterator[tuple[str, int, int]]:
    """What there is to do: the way of drawing, and a range of indices."""
    num_hypothesis = num_inputs // HYPOTHESIS_SHARE
    for way, total in (("drawn", num_inputs - num_hypothesis), ("hypothesis", num_hypothesis)):
        for start in range(0, total, CHUNK[way]):
            yield way, start, min(start + CHUNK[way], total)


@cache
def warmed(name: str) -> Subject:
    """The subject, after enough cases to fill all caches; memory is watched from then on."""
    subject = subject_of(name)
    fuzz_drawn(subject, 0, 0, 1000)
    return subject


def work(name: str, seed: int, way: str, start: int, stop: int) -> Tally:
    """One chunk, in a process of the pool."""
    subject = warmed(name)
    if way == "drawn":
        return watched(lambda: fuzz_drawn(subject, seed, start, stop))
    # Not watched, and after all others: hypothesis remembers what it has drawn.
    return fuzz_hypothesis(subject, seed * 1_000_003 + start, stop - start)


def trace(name: str, seed: int, indices: list[int]) -> Tally:
    """The memory of some inputs, in a process of the pool."""
    return trace_memory(subject_of(name), seed, indices)


def fuzz(name: str, num_inputs: int, seed: int, jobs: int) -> Tally:
    """All chunks, then the longest inputs once more with their memory traced."""
    total = Tally()
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(jobs, mp_context=context) as pool,
        tqdm(total=num_inputs, unit="input", disable=None) as bar,
    ):
        sizes = {
            pool.submit(work, name, seed, *chunk): chunk[2] - chunk[1]
            for chunk in chunks(num_inputs)
        }
        for done in as_completed(sizes):
            total.add(done.result())
            bar.update(sizes[done])
        indices = [index for _, index in total.longest]
        shares = [indices[first::jobs] for first in range(jobs)]
        for traced in pool.map(
            trace, *zip(*((name, seed, share) for share in shares), strict=True)
        ):
            total.add(traced)
    return total
