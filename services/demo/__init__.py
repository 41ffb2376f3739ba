"""The demo: every process on this machine, and what the model is measured against.

There are no names here: the benchmarks need the processes and not the demo.
"""
