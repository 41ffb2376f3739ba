"""Training clicks as sessions in one flat array."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from nextclick.shared.model import Vocabulary
from nextclick.shared.windows import PADDING, IntArray
from nextclick.trainer.data.dataset import ClickLog, Split, Weights

LEARNING_SPLITS = (Split.TRAIN, Split.VALIDATION)
"""The splits that a method may train on."""


@dataclass(frozen=True)
class Sessions:
    """Sessions, ordered by their last click, oldest first.

    The clicks of session s are rows[bounds[s]:bounds[s + 1]], oldest first.
    """

    rows: IntArray
    """Shape [N], catalogue rows, none of them PADDING."""
    bounds: IntArray
    """Shape [sessions + 1]."""
    weights: Weights | None = None
    """Shape [N]: how much each click counts as a target; None: 1 each."""

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @property
    def targets(self) -> int:
        """Number of clicks that have a click before them in their session."""
        return len(self.rows) - len(self)

    @cached_property
    def lengths(self) -> IntArray:
        """Shape [sessions], number of clicks in each session."""
        return np.diff(self.bounds)

    @cached_property
    def number(self) -> IntArray:
        """Shape [N], index of the session of each click."""
        return np.repeat(np.arange(len(self)), self.lengths)

    @cached_property
    def starts(self) -> IntArray:
        """Shape [N], index of the first click of each click's session."""
        return self.bounds[self.number]


def sessions_of(
    log: ClickLog,
    vocabulary: Vocabulary,
    splits: tuple[Split, ...] = LEARNING_SPLITS,
) -> Sessions:
    """The sessions of some splits, without the items that the vocabulary lacks.

    A session that spans splits is cut where the split ends. Raises ValueError for the test split.
    """
    if Split.TEST in splits:
        raise ValueError("a method never sees the test split")
    rows = vocabulary.rows(log.item_ids)[log.items] if len(log.items) else log.items
    kept = np.flatnonzero(np.isin(log.split, splits) & (rows != PADDING))
    if len(kept) == 0:
        return Sessions(np.zeros(0, np.int64), np.zeros(1, np.int64))
    first = np.flatnonzero(np.diff(log.starts[kept], prepend=-1))
    place = kept if log.order is None else log.order[kept]
    by_last_click = np.argsort(np.maximum.reduceat(place, first), kind="stable")
    lengths = np.diff(first, append=len(kept))
    rank = np.empty(len(first), np.int64)
    rank[by_last_click] = np.arange(len(first))
    oldest_session_first = np.argsort(np.repeat(rank, lengths), kind="stable")
    bounds = np.concatenate([[0], np.cumsum(lengths[by_last_click])])
    in_order = kept[oldest_session_first]
    weights = None if log.weights is None else log.weights[in_order]
    return Sessions(rows[in_order], bounds, weights)
