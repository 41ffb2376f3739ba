"""The demo: all processes on this machine, and the baselines that the model is compared with.

Import the modules: nothing is re-exported, because the benchmarks need only some of them.
"""
