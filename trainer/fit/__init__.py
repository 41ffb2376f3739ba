"""Fit a model: presets, losses and objectives, one loop, on one process or several.

There are no names here: whoever needs a preset shall not pay for scipy and pandas.
"""
