"""The best possible method, for simulated worlds with known click probabilities."""

from __future__ import annotations

import numpy as np

from nextclick.shared.model import Vocabulary
from nextclick.shared.model.calibration import UNCALIBRATED
from nextclick.trainer.compare.benchmark import Oracle
from nextclick.trainer.data import ClickLog, Samples
from nextclick.trainer.evaluate import FloatArray

_JITTER = 1e-9


class Ceiling:
    """Scores by the oracle of a world.

    Many items can have exactly equal probabilities. Ties count against a method, so they are broken
    at random, which is the best possible.
    """

    name = "Ceiling"
    calibration = UNCALIBRATED
    """The oracle's scores are log P as it is."""

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle

    def fit(self, log: ClickLog, vocabulary: Vocabulary, seed: int) -> None:
        """Keep the vocabulary; there is nothing to learn."""
        self._vocabulary = vocabulary
        self._rng = np.random.default_rng(seed)

    def score(self, cases: Samples) -> FloatArray:
        """The oracle's scores, shape [B, items], as float64, so that near ties stay distinct."""
        scores = self._oracle(cases, self._vocabulary)
        return scores + _JITTER * self._rng.random(scores.shape)
