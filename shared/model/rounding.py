"""Probabilities as messages have them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_POWERS_OF_TEN = np.array([float(f"1e{exponent}") for exponent in range(60)])
"""Exact up to 1e22, so that rounding with them gives the nearest double of a decimal."""


def round_to_six_digits(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Round to six significant digits: float32 has no more, and it halves the JSON.

    scores: any shape, in [0, 1].
    """
    magnitude = np.floor(np.log10(scores, out=np.zeros_like(scores), where=scores > 0))
    scale = _POWERS_OF_TEN[np.minimum(5 - magnitude.astype(np.int64), len(_POWERS_OF_TEN) - 1)]
    rounded: npt.NDArray[np.float64] = np.round(scores * scale) / scale
    return rounded


def six_digits(score: float) -> float:
    """The same for one number, for which an array costs ten times as much."""
    return float(f"{score:.6g}")
