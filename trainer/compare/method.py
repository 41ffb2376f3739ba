"""What every recommender in a comparison looks like."""

from __future__ import annotations

from typing import Protocol

from nextclick.shared.model import Vocabulary
from nextclick.trainer.data import ClickLog, Samples
from nextclick.trainer.evaluate import FloatArray

Scores = FloatArray


class Method(Protocol):
    """A way to rank the catalogue for a session: fitted once, then asked in batches.

    Methods never see the test split: `fit` uses training and validation clicks and nothing else
    (`log.split`), and decides for itself what it needs the validation for.
    """

    name: str

    def fit(self, log: ClickLog, vocabulary: Vocabulary, seed: int) -> None:
        """Learn from the clicks of `log` outside Split.TEST, in the rows of `vocabulary`.

        The vocabulary holds exactly the items that were clicked outside the test.
        """
        ...

    def score(self, cases: Samples) -> Scores:
        """Score every item for cases whose histories hold at least one known item.

        Returns shape [len(cases), items], finite; column j is row j + 1; higher is better.
        """
        ...
