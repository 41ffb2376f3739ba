"""Methods side by side: the model, the baselines and the ceiling on the same cases.

There are no names here: the trainer needs one baseline and none of the report.
"""
