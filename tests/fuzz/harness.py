"""Run cases by the thousand: nothing but the allowed errors, bounded time and memory, right values.

A case is drawn from (seed, index) alone, so that any can be made again.
"""

import heapq
import os
import resource
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from random import Random
from typing import Protocol

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as hypothesis_seed
from hypothesis.strategies import SearchStrategy

MAX_CPU_SECONDS = 0.05
MAX_BYTES = 50_000_000
NUM_TRACED = 10_000
"""The longest inputs, whose memory is traced: too slow for all."""

SHOWN_CHARS = 300


class Wrong(Exception):
    """A check failed; the message says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One input: `run` is timed, then `check` gets its result and returns an outcome to count.

    The outcome "compared" means that the result equals one worked out independently.
    """

    text: str
    run: Callable[[], object]
    check: Callable[[object], str]


class Subject(Protocol):
    """What is fuzzed."""

    kinds: Mapping[str, Callable[[Random], Case]]
    strategy: SearchStrategy[Case]

    def size(self, text: str) -> int:
        """How many characters of the text are worked on; 0 if it is refused for its length."""

    def growth(self) -> list[tuple[str, float]]:
        """Adversarial patterns, each with the most that a doubling multiplied the time by."""


@dataclass(slots=True)
class Tally:
    """What was seen; two add up."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    slowest: dict[str, tuple[float, str]] = field(default_factory=dict)  # kind -> seconds, text
    longest: list[tuple[int, int]] = field(default_factory=list)  # length, index
    rss: dict[int, tuple[int, int]] = field(default_factory=dict)  # process -> KiB before, after
    traced_bytes: int = 0
    failures: list[str] = field(default_factory=list)

    def add(self, other: "Tally") -> None:
        self.outcomes += other.outcomes
        for kind, slow in other.slowest.items():
            self.slowest[kind] = max(self.slowest.get(kind, slow), slow)
        self.longest = heapq.nlargest(NUM_TRACED, self.longest + other.longest)
        for process, (before, after) in other.rss.items():
            first, last = self.rss.get(process, (before, after))
            self.rss[process] = min(first, before), max(last, after)
        self.traced_bytes = max(self.traced_bytes, other.traced_bytes)
        self.failures += other.failures

    def count(self, kind: str | None = None, outcome: str | None = None) -> int:
        return sum(
            number
            for (a, b), number in self.outcomes.items()
            if kind in (None, a) and outcome in (None, b)
        )

    @property
    def rss_growth_bytes(self) -> int:
        return max((after - before for before, after in self.rss.values()), default=0) * 1024


def case_at(subject: Subject, seed: int, index: int) -> tuple[str, Case]:
    """The kind and case of an index; the kinds take turns."""
    kinds = list(subject.kinds)
    kind = kinds[index % len(kinds)]
    return kind, subject.kinds[kind](Random(f"{seed}/{index}"))


def examine(kind: str, case: Case, tally: Tally) -> None:
    """Run and check one case."""
    try:
        started = time.process_time()
        result = case.run()
        seconds = time.process_time() - started
        if seconds > MAX_CPU_SECONDS:  # once may be garbage collection; thrice is not
            seconds = least_seconds(case.run)
        slow = seconds, case.text[:SHOWN_CHARS]
        tally.slowest[kind] = max(tally.slowest.get(kind, slow), slow)
        if seconds > MAX_CPU_SECONDS:
            raise Wrong(f"took {1000 * seconds:.0f} ms of CPU time")
        outcome = case.check(result)
    except Exception as error:  # whatever it raises is the finding
        outcome = "failed"
        reason = str(error) if isinstance(error, Wrong) else f"raised {error!r}"
        tally.failures.append(f"{kind}: {case.text[:2000]!a}: {reason[:2000]!a}")
    tally.outcomes[kind, outcome] += 1


def fuzz_drawn(subject: Subject, seed: int, start: int, stop: int) -> Tally:
    """Examine the cases of these indices."""
    tally = Tally()
    for index in range(start, stop):
        kind, case = case_at(subject, seed, index)
        examine(kind, case, tally)
        tally.longest.append((subject.size(case.text), index))
    tally.longest = heapq.nlargest(NUM_TRACED, tally.longest)
    return tally


def fuzz_hypothesis(subject: Subject, seed: int, num_inputs: int) -> Tally:
    """Examine cases that hypothesis draws."""
    tally = Tally()

    @hypothesis_seed(seed)
    @settings(
        max_examples=num_inputs,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(subject.strategy)
    def each(case: Case) -> None:
        examine("hypothesis", case, tally)

    each()
    return tally


def trace_memory(subject: Subject, seed: int, indices: list[int]) -> Tally:
    """The most memory that one of these cases takes."""
    tally = Tally()
    tracemalloc.start()
    for index in indices:
        kind, case = case_at(subject, seed, index)
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        case.run()
        taken = tracemalloc.get_traced_memory()[1] - before
        tally.traced_bytes = max(tally.traced_bytes, taken)
        if taken > MAX_BYTES:
            tally.failures.append(f"{kind}: {case.text[:2000]!a}: took {taken / 1e6:.0f} MB")
    tracemalloc.stop()
    return tally


def watched(work: Callable[[], Tally]) -> Tally:
    """What the work returns, and what it added to this process's peak memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tally = work()
    tally.rss[os.getpid()] = before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return tally


def doubling(
    run: Callable[[str], object], make: Callable[[int], str], sizes: tuple[int, ...]
) -> float:
    """The most that the time grows by from one size to the next, each twice the one before."""
    seconds = [least_seconds(partial(run, make(size))) for size in sizes]
    return max(later / max(earlier, 1e-3) for earlier, later in pairwise(seconds))


def least_seconds(run: Callable[[], object]) -> float:
    """CPU time of the best of three runs."""
    return min(_timed(run) for _ in range(3))


def _timed(run: Callable[[], object]) -> float:
    started = time.process_time()
    run()
    return time.process_time() - started
