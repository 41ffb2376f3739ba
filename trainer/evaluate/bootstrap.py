"""Confidence interval of the difference between two methods. Pure."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nextclick.shared.windows import IntArray

RESAMPLES = 1000


def paired_interval(
    difference: npt.NDArray[np.float64],
    clusters: IntArray,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Bootstrap 95 % interval (low, high) of the mean of paired differences.

    difference, clusters: shape [M], M ≥ 1. Whole clusters (sessions or users) are resampled,
    because the cases of one cluster are not independent (cluster bootstrap, percentile method;
    Efron & Tibshirani, An Introduction to the Bootstrap, 1993).
    """
    _, number = np.unique(clusters, return_inverse=True)
    sums = np.bincount(number, weights=difference)
    cases = np.bincount(number)
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    for i in range(resamples):
        drawn = rng.integers(0, len(sums), len(sums))
        means[i] = sums[drawn].sum() / cases[drawn].sum()
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
