"""Benchmarks: what takes minutes and is measured rather than tested."""
