"""Sessions cut for training after every click: each pass over a segment predicts many clicks.

A segment is HISTORY_LENGTH clicks and the click after each of them. A short session is one
segment. In a longer one, every click past the first HISTORY_LENGTH + 1 should be predicted from a
full window, which alone would make as many segments as clicks; predicting the last `stride` clicks
of a segment makes fewer, and costs the earlier of these a little of their history.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shared.checkpoint import Vocabulary
from shared.windows import HISTORY_LENGTH, PADDING, IntArray, windows
from trainer.dataset import ClickLog, Split


@dataclass(frozen=True)
class Segments:
    """S segments, left-padded."""

    rows: IntArray
    """Shape [S, HISTORY_LENGTH + 1]: clicks; the inputs are all but the last, the targets all but
    the first."""
    trained: IntArray
    """Shape [S]: how many of the newest clicks are predicted here; over all segments every click
    that has one before it is predicted exactly once."""
    lengths: IntArray
    """Shape [S]: clicks before the last one."""


@dataclass(frozen=True)
class Sessions:
    """The sessions of some splits of a log, in rows of a vocabulary; what segments are cut from."""

    rows: IntArray
    """Shape [N]: clicks, adjacent by session."""
    starts: IntArray
    """Shape [N]: index of the first click of the click's session."""

    @staticmethod
    def of(log: ClickLog, splits: tuple[Split, ...], vocabulary: Vocabulary) -> Sessions:
        """Keep the clicks of `splits` on known items; `splits` are the oldest of every user."""
        rows = vocabulary.rows(log.item_ids)[log.items] if len(log.items) else log.items
        kept = np.isin(log.split, splits) & (rows != PADDING)
        starts = log.starts[kept]
        first = np.r_[True, starts[1:] != starts[:-1]][: len(starts)]
        number = np.cumsum(first) - 1
        return Sessions(rows[kept], np.flatnonzero(first)[number])

    @property
    def targets(self) -> int:
        """How many clicks have one before them."""
        return len(self.rows) - len(np.unique(self.starts))

    def cut(self, stride: int, rng: np.random.Generator) -> Segments:
        """Cut segments; where those of a long session end is drawn anew at each call.

        1 ≤ stride ≤ HISTORY_LENGTH, else ValueError.
        """
        if not 1 <= stride <= HISTORY_LENGTH:
            raise ValueError(f"stride {stride} is not between 1 and {HISTORY_LENGTH}")
        index = np.arange(len(self.rows))
        place = index - self.starts
        is_last = np.r_[self.starts[1:] != self.starts[:-1], True][: len(index)]
        phase = rng.integers(0, stride, len(index))[self.starts] if len(index) else index
        beyond = place - HISTORY_LENGTH - 1 - phase
        ends = np.flatnonzero(
            (place > 0)
            & (is_last | (place == HISTORY_LENGTH) | (beyond >= 0) & (beyond % stride == 0))
        )
        before = np.r_[-1, ends[:-1]][: len(ends)]
        same_session = np.where(before >= 0, self.starts[before], -1) == self.starts[ends]
        trained = np.where(same_session, ends - before, place[ends])
        inputs = windows(self.rows, self.starts[ends], ends)
        rows = np.concatenate([inputs, self.rows[ends, None]], axis=1)
        return Segments(rows, trained, np.minimum(place[ends], HISTORY_LENGTH))


def batches(
    segments: Segments, targets_per_batch: int, rng: np.random.Generator
) -> list[npt.NDArray[np.int64]]:
    """Shuffle segments into batches of about equally many targets, alike in length.

    Segments of one length need no padding. Batches are formed within random groups of the
    segments, so that their company changes from epoch to epoch.
    """
    order = rng.permutation(len(segments.trained))
    seen = np.cumsum(segments.trained[order])
    group = seen // (_BATCHES_PER_GROUP * targets_per_batch)
    order = order[np.lexsort((segments.lengths[order], group))]
    seen = np.cumsum(segments.trained[order])
    if len(order) == 0:
        return []
    count = max(1, round(int(seen[-1]) / targets_per_batch))
    cuts = np.searchsorted(seen, np.arange(1, count) * (int(seen[-1]) / count))
    parts = [part for part in np.split(order, cuts) if len(part)]
    return [parts[i] for i in rng.permutation(len(parts))]


_BATCHES_PER_GROUP = 16
