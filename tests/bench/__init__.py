"""Benchmarks: `python -m tests.bench`. Figures are ratios measured in one run."""
