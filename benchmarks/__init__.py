"""Benchmarks: one runner, one file a case. Start with `python -m benchmarks --list`; rules in README.md."""
