"""The interface of a recommender in a comparison."""

from __future__ import annotations

from typing import Protocol

from nextclick.shared.model import Vocabulary
from nextclick.trainer.data import ClickLog, Samples
from nextclick.trainer.evaluate import FloatArray

Scores = FloatArray


class Method(Protocol):
    """Ranks the catalogue for sessions: fitted once, then scores cases in batches.

    Methods never see the test split: `fit` uses training and validation clicks only (`log.split`),
    and decides what it uses the validation for.

    A method whose scores are log P(next click) has an attribute `calibration`, a Calibration: the
    map from these to the probabilities that it shows. That of others are no probabilities.
    """

    name: str

    def fit(self, log: ClickLog, vocabulary: Vocabulary, seed: int) -> None:
        """Fit on the clicks of `log` outside Split.TEST.

        vocabulary: exactly the items clicked outside the test split. Raises NextclickError
        if the method is not applicable to the data.
        """
        ...

    def score(self, cases: Samples) -> Scores:
        """Scores [len(cases), items], finite; column j is row j + 1; higher is better.

        The history of every case holds at least one known item.
        """
        ...
