"""Benchmarks: both sides of a comparison in turn, in one run. Run them by `python -m jobs.bench`."""
