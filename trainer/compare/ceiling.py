"""The best possible, as a method: where a world's law is known, this is what it allows."""

from __future__ import annotations

import numpy as np

from nextclick.shared.model import Vocabulary
from nextclick.trainer.compare.benchmark import Oracle
from nextclick.trainer.data import ClickLog, Samples
from nextclick.trainer.evaluate import FloatArray

_JITTER = 1e-9


class Ceiling:
    """Scores by the oracle of a world; learns nothing.

    To an oracle many items can be exactly alike. Ties stand against a method, so they are broken
    at random, which is the best that anyone could do about them.
    """

    name = "Ceiling"

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle

    def fit(self, log: ClickLog, vocabulary: Vocabulary, seed: int) -> None:
        """Take note of the rows; nothing is learnt."""
        self._vocabulary = vocabulary
        self._rng = np.random.default_rng(seed)

    def score(self, cases: Samples) -> FloatArray:
        """The oracle's scores, shape [B, items]; 64 bits wide, so that near ties stay apart."""
        scores = self._oracle(cases, self._vocabulary)
        return scores + _JITTER * self._rng.random(scores.shape)
