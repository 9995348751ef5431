"""Fuzzing: `python -m tests.fuzz calculator|notation [--inputs N] [--seed N] [--jobs N]`.

calculator: every text is answered or rejected with a reason; valid expressions in many forms agree
with fractions worked out from their tree, and plain ASCII with Python's own parser.

notation: every rendered call is parsed back, nothing in a call can pass for another, hostile text
raises nothing but NotationError, and time is linear in the length of adversarial patterns.

Each input has 50 ms of CPU time (beyond that the best of three more runs counts) and 50 MB, traced
for the 10,000 longest. One input in fifty comes from hypothesis. The exit code is 1, and the inputs
are printed, if a check fails. The same seed gives the same inputs, whatever the jobs.
"""

import argparse
import sys

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tests.fuzz.harness import MAX_BYTES, Tally
from tests.fuzz.pool import fuzz, subject_of

MAX_DOUBLING = 3.0
SHOWN_FAILURES = 20


def summary(name: str, tally: Tally) -> Table:
    """The figures by kind."""
    outcomes = sorted({outcome for _, outcome in tally.outcomes})
    table = Table(title=f"fuzz {name}")
    for column in ("kind", "inputs", *outcomes, "slowest ms", "slowest input"):
        table.add_column(column, justify="left" if "input" in column[1:] else "right")
    for kind in sorted({kind for kind, _ in tally.outcomes}):
        counts = [f"{tally.count(kind, outcome):,}" for outcome in outcomes]
        seconds, text = tally.slowest.get(kind, (0.0, ""))
        shown = ascii(text)
        shown = shown if len(shown) < 60 else f"{shown[:55]} ..."
        table.add_row(kind, f"{tally.count(kind):,}", *counts, f"{1000 * seconds:.2f}", Text(shown))
    counts = [f"{tally.count(outcome=outcome):,}" for outcome in outcomes]
    slowest = max((seconds for seconds, _ in tally.slowest.values()), default=0.0)
    memory = (
        f"one input {tally.traced_bytes / 1e6:.2f} MB (of {len(tally.longest):,} traced); "
        f"process grew {tally.rss_growth_bytes / 1e6:.1f} MB"
    )
    table.add_row("all", f"{tally.count():,}", *counts, f"{1000 * slowest:.2f}", memory)
    return table


def main() -> int:
    """Run, print what failed, then the summary."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("subject", choices=("calculator", "notation"))
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    if options.inputs < 1 or options.jobs < 1:
        parser.error("--inputs and --jobs must be at least 1")
    console = Console(width=None if sys.stdout.isatty() else 160)
    tally = fuzz(options.subject, options.inputs, options.seed, options.jobs)
    for pattern, factor in subject_of(options.subject).growth():
        console.print(
            f"time at twice the length of {pattern!r}: at most {factor:.2f} times", markup=False
        )
        if factor > MAX_DOUBLING:
            tally.failures.append(f"time grows {factor:.2f} times as {pattern!r} doubles")
    if tally.rss_growth_bytes > MAX_BYTES:
        tally.failures.append(f"a process grew by {tally.rss_growth_bytes / 1e6:.0f} MB")
    for failure in tally.failures[:SHOWN_FAILURES]:
        console.print(f"FAILED {failure}", markup=False)
    console.print(summary(options.subject, tally))
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main())
