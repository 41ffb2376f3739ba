"""A baseline from categories: what is popular where the shopper last looked, and what is new."""

from __future__ import annotations

import numpy as np
import scipy.sparse

from nextclick.shared.item_features import Contents
from nextclick.shared.model import Vocabulary
from nextclick.trainer.compare.baselines.counting import popularity_shares
from nextclick.trainer.compare.method import Scores
from nextclick.trainer.data import ClickLog, Samples


class CategoryPopularity:
    """The most clicked items of the last item's categories, and cold ones at random among them.

    A cold item takes the clicks of a random item that has some. Items of other categories follow
    by popularity.
    """

    name = "Category popularity"

    def __init__(self, contents: Contents) -> None:
        """contents: what is known about items, by id."""
        self._contents = contents

    def fit(self, log: ClickLog, vocabulary: Vocabulary, seed: int) -> None:
        """Count the clicks of each item, and draw those of cold ones."""
        clicks = log.counts(vocabulary)
        cold = clicks == 0
        if cold.any() and not cold.all():
            clicks[cold] = np.random.default_rng(seed).choice(clicks[~cold], cold.sum())
        self._shares = popularity_shares(clicks)
        known = [self._contents.get(item_id) for item_id in vocabulary.item_ids]
        names = [content.categories if content is not None else () for content in known]
        number = {
            name: i for i, name in enumerate(dict.fromkeys(n for each in names for n in each))
        }
        pairs = [(row, number[name]) for row, each in enumerate(names, 1) for name in each]
        rows, columns = np.array(pairs, np.int64).reshape(-1, 2).T
        shape = (len(names) + 1, max(1, len(number)))
        self._in_category = scipy.sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape)

    def score(self, cases: Samples) -> Scores:
        """Score by categories shared with the newest item plus a share below 1: [B, items]."""
        shared = self._in_category[cases.histories[:, -1]] @ self._in_category[1:].T
        return np.asarray((shared.toarray() > 0) + self._shares)
