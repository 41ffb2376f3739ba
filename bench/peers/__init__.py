"""Comparison of our worker with the same task on another stream processor, Quix Streams."""
