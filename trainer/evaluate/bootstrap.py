"""Is the difference between two methods more than noise? Pure."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nextclick.shared.windows import IntArray

RESAMPLES = 1000
FLIPS = 2000
_SIGNS = 4_000_000
"""Most random signs in memory at once."""


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


def sign_flip_p_values(
    contributions: npt.NDArray[np.float64], flips: int = FLIPS, seed: int = 0
) -> npt.NDArray[np.float64]:
    """For each of S hypotheses "the mean is not below zero", its adjusted p-value: shape [S].

    contributions: shape [users, S], 0 where a user says nothing about a hypothesis. The signs of
    users are flipped at random, of one user for all hypotheses at once, and the smallest of the S
    studentised sums is kept. An adjusted p-value is the share of flips whose smallest sum is at
    most the observed one. So the probability that any true hypothesis is rejected stays below the
    level, however the hypotheses overlap (single-step max-T; Westfall and Young, Resampling-Based
    Multiple Testing, 1993).
    """
    users = len(contributions)
    scale = np.sqrt((contributions**2).sum(axis=0))
    scaled = contributions / np.where(scale > 0, scale, 1.0)
    observed = scaled.sum(axis=0)
    rng = np.random.default_rng(seed)
    smallest = np.empty(flips)
    rows = max(1, _SIGNS // max(1, users))
    for start in range(0, flips, rows):
        part = smallest[start : start + rows]
        signs = rng.integers(0, 2, (len(part), users), np.int8) * 2.0 - 1.0
        part[:] = (signs @ scaled).min(axis=1, initial=np.inf)
    at_most = (smallest[:, None] <= observed).sum(axis=0)
    p_values: npt.NDArray[np.float64] = (1.0 + at_most) / (1.0 + flips)
    return p_values
