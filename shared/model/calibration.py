"""Beta calibration: from the probability that a model gives an item to one that can be believed.

logit P' = a · log P − b · log(1 − P) + c (Kull et al., "Beta calibration: a well-founded and easily
implemented improvement on logistic calibration for binary classifiers", 2017). It increases with P,
so no list changes its order, and it needs nothing but P: a list of k items costs k maps, where a
temperature would cost a second sum over the catalogue.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

FloatArray = npt.NDArray[np.float64]

_LARGEST = 1.0 - 1e-6
"""Of 1 − P above, float32 knows no digit."""


class Calibration(BaseModel):
    """The three parameters; by default P' = P."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    a: float = Field(1.0, gt=0)
    b: float = Field(1.0, ge=0)
    c: float = 0.0

    def log_probabilities(self, log_p: FloatArray) -> FloatArray:
        """log P' of log P, of any shape; −inf stays −inf, and NaN stays NaN."""
        if (self.a, self.b, self.c) == (1.0, 1.0, 0.0):
            return log_p
        logit = self.a * log_p + self.b * minus_log_rest(log_p) + self.c
        with np.errstate(invalid="ignore"):  # NaN: whoever asks must see that a model is broken
            calibrated: FloatArray = -np.logaddexp(0.0, -logit)
        return calibrated

    def probabilities(self, log_p: FloatArray) -> FloatArray:
        """P' of log P, of any shape; of −inf it is 0."""
        probabilities: FloatArray = np.exp(self.log_probabilities(log_p))
        return probabilities


UNCALIBRATED = Calibration()


def minus_log_rest(log_p: FloatArray) -> FloatArray:
    """−log(1 − P) of log P, of any shape; finite for P = 1, too."""
    rest: FloatArray = -np.log1p(-np.minimum(np.exp(log_p), _LARGEST))
    return rest
