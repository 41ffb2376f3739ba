"""Comparison of the model with baselines and the ceiling, on the same cases.

Import the modules: nothing is re-exported, because the trainer needs only one baseline.
"""
