"""How far probabilities are from what happens. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BINS = 15
_DRAWS = 200
_Z = 1.959964
"""Of a 95 % interval."""


@dataclass(frozen=True)
class Bin:
    """Cases of similar probability."""

    cases: int
    mean_probability: float
    hit_rate: float
    low: float
    high: float
    """95 % interval of the hit rate (Wilson, "Probable Inference, the Law of Succession, and
    Statistical Inference", 1927)."""


def reliability(probabilities: npt.NDArray[np.float64], hits: npt.NDArray[np.float64]) -> list[Bin]:
    """The bins of `expected_calibration_error`, least probable first: a reliability diagram."""
    order = np.argsort(probabilities, kind="stable")
    bins = min(BINS, len(order))
    return [_bin(probabilities[part], hits[part]) for part in np.array_split(order, bins)]


def expected_calibration_error(
    probabilities: npt.NDArray[np.float64], hits: npt.NDArray[np.float64]
) -> float:
    """ECE: |mean probability − share of hits|, averaged over BINS bins of as many cases.

    probabilities: shape [M], M ≥ 1, of what may happen; hits: shape [M], 1.0 where it did. Naeini
    et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning" (2015).
    """
    order = np.argsort(probabilities, kind="stable")
    return _error(probabilities[order], hits[order])


def noise(probabilities: npt.NDArray[np.float64], seed: int = 0) -> float:
    """The ECE below which a perfect model with these probabilities [M] stays in 95 % of samples."""
    ordered, rng = np.sort(probabilities), np.random.default_rng(seed)
    errors = [
        _error(ordered, (rng.random(len(ordered)) < ordered).astype(np.float64))
        for _ in range(_DRAWS)
    ]
    return float(np.quantile(errors, 0.95))


def _bin(probabilities: npt.NDArray[np.float64], hits: npt.NDArray[np.float64]) -> Bin:
    cases, rate = len(hits), float(hits.mean())
    weight = _Z**2 / cases
    middle = (rate + weight / 2) / (1 + weight)
    width = _Z * np.sqrt(rate * (1 - rate) / cases + weight / (4 * cases)) / (1 + weight)
    return Bin(
        cases, float(probabilities.mean()), rate, float(middle - width), float(middle + width)
    )


def _error(ordered: npt.NDArray[np.float64], hits: npt.NDArray[np.float64]) -> float:
    """ECE of cases in the order of their probabilities."""
    apart = np.array_split(ordered - hits, min(BINS, len(ordered)))
    return float(sum(abs(part.sum()) for part in apart)) / len(ordered)
