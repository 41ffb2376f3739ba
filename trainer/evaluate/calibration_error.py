"""How far probabilities are from what happens. Pure."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

BINS = 15
_DRAWS = 200


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


def _error(ordered: npt.NDArray[np.float64], hits: npt.NDArray[np.float64]) -> float:
    """ECE of cases in the order of their probabilities."""
    apart = np.array_split(ordered - hits, min(BINS, len(ordered)))
    return float(sum(abs(part.sum()) for part in apart)) / len(ordered)
