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

from nextclick.shared.windows import HISTORY_LENGTH, IntArray, windows
from nextclick.trainer.data.sessions import Sessions

_RECENCY = 1.1
"""The newest session is drawn e to the power of this times as often as the oldest: three times."""
_BATCHES_PER_GROUP = 16
"""More means less padding, fewer means more mixing."""


@dataclass(frozen=True)
class Segments:
    """S segments, left-padded."""

    rows: IntArray
    """Shape [S, HISTORY_LENGTH + 1]: clicks; the inputs are all but the last, the targets all but
    the first."""
    trained: IntArray
    """Shape [S]: how many of the newest clicks are predicted here; over all that `cut` makes, every
    click that has one before it is predicted exactly once."""
    lengths: IntArray
    """Shape [S]: clicks before the last one."""

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: IntArray) -> Segments:
        """The segments at these places."""
        return Segments(self.rows[index], self.trained[index], self.lengths[index])


def cut(sessions: Sessions, stride: int, rng: np.random.Generator) -> Segments:
    """Cut segments; where those of a long session end is drawn anew at each call.

    1 ≤ stride ≤ HISTORY_LENGTH, else ValueError.
    """
    if not 1 <= stride <= HISTORY_LENGTH:
        raise ValueError(f"stride {stride} is not between 1 and {HISTORY_LENGTH}")
    rows, starts = sessions.rows, sessions.starts
    index = np.arange(len(rows))
    place = index - starts
    is_last = np.r_[starts[1:] != starts[:-1], True][: len(index)]
    phase = rng.integers(0, stride, len(index))[starts] if len(index) else index
    beyond = place - HISTORY_LENGTH - 1 - phase
    ends = np.flatnonzero(
        (place > 0) & (is_last | (place == HISTORY_LENGTH) | (beyond >= 0) & (beyond % stride == 0))
    )
    before = np.r_[-1, ends[:-1]][: len(ends)]
    same_session = np.where(before >= 0, starts[before], -1) == starts[ends]
    trained = np.where(same_session, ends - before, place[ends])
    inputs = windows(rows, starts[ends], ends)
    clicks = np.concatenate([inputs, rows[ends, None]], axis=1)
    return Segments(clicks, trained, np.minimum(place[ends], HISTORY_LENGTH))


def mostly_recent(segments: Segments, rng: np.random.Generator) -> Segments:
    """As many segments again, in their order: of late ones more, of early ones fewer.

    What shoppers want moves on. A late segment comes once or twice, an early one once or not at
    all (systematic sampling, which draws each as often as it should be, give or take one).
    """
    count = len(segments)
    weight = np.exp(_RECENCY * np.arange(count) / max(1, count))
    drawn = np.cumsum(weight) * (count / weight.sum() if count else 0.0)
    points = np.arange(count) + rng.random()
    return segments.take(np.searchsorted(drawn, points).clip(max=count - 1))


def batches(
    segments: Segments, targets_per_batch: int, rng: np.random.Generator
) -> list[npt.NDArray[np.int64]]:
    """Shuffle segments into batches of about equally many targets, alike in length.

    Segments of one length need no padding. Batches are formed within random groups of the
    segments, so that their company changes from epoch to epoch.
    """
    order = rng.permutation(len(segments))
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
