"""Benchmarks: `nextclick bench`, and scripts that run for minutes."""
