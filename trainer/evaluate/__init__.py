"""Ranking metrics, confidence intervals, and the gate that decides whether to publish."""

from nextclick.trainer.evaluate.bootstrap import paired_interval, sign_flip_p_values
from nextclick.trainer.evaluate.metrics import (
    METRICS,
    Evaluation,
    FloatArray,
    discounted_gain,
    evaluate,
    evaluate_model,
    evaluate_popularity,
    model_score,
    most_frequent_types,
    ranks_of,
)

__all__ = [
    "METRICS",
    "Evaluation",
    "FloatArray",
    "discounted_gain",
    "evaluate",
    "evaluate_model",
    "evaluate_popularity",
    "model_score",
    "most_frequent_types",
    "paired_interval",
    "ranks_of",
    "sign_flip_p_values",
]
