"""Fitting a model: presets, losses, objectives, and the loop, on one process or several.

Import the modules: nothing is re-exported, so that presets do not need scipy and pandas.
"""
