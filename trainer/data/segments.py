"""Cuts sessions into segments, so that one forward pass trains the prediction of many clicks.

A segment is up to HISTORY_LENGTH + 1 clicks: each click but the first is predicted from those
before it. A short session is one segment. In a longer one, each further click should be predicted
from a full window, which would need one segment per click. Instead, each segment predicts its last
`stride` clicks: fewer segments, but up to stride − 1 clicks less history for some predictions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nextclick.shared.windows import HISTORY_LENGTH, IntArray, windows
from nextclick.trainer.data.dataset import Weights
from nextclick.trainer.data.sessions import Sessions

_RECENCY = 1.1
"""The newest session is drawn e^_RECENCY = 3 times as often as the oldest."""
_BATCHES_PER_GROUP = 16
"""Batches sorted by length together; more of them need less padding, but mix segments less."""


@dataclass(frozen=True)
class Segments:
    """S segments, left-padded."""

    rows: IntArray
    """Shape [S, HISTORY_LENGTH + 1]: catalogue rows. Inputs are all but the last, targets all but
    the first."""
    trained: IntArray
    """Shape [S]: number of newest clicks to predict. Over all segments of `cut_segments`, every
    click with a click before it is predicted exactly once."""
    lengths: IntArray
    """Shape [S]: number of input clicks."""
    weights: Weights | None = None
    """Shape [S, HISTORY_LENGTH + 1]: how much each click counts as a target; None: 1 each."""

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: IntArray) -> Segments:
        """The segments at `index`, in that order."""
        weights = None if self.weights is None else self.weights[index]
        return Segments(self.rows[index], self.trained[index], self.lengths[index], weights)


def cut_segments(sessions: Sessions, stride: int, rng: np.random.Generator) -> Segments:
    """Cut sessions into segments; the ends of segments in a long session are random.

    Raises ValueError unless 1 ≤ stride ≤ HISTORY_LENGTH.
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
    weights = None
    if sessions.weights is not None:
        earlier = windows(index + 1, starts[ends], ends)  # numbered from 1; 0 is padding
        numbers = np.concatenate([earlier, ends[:, None] + 1], axis=1)
        weights = np.r_[np.float32(0), sessions.weights][numbers]
    return Segments(clicks, trained, np.minimum(place[ends], HISTORY_LENGTH), weights)


def resample_by_recency(segments: Segments, rng: np.random.Generator) -> Segments:
    """Draw as many segments as there are, in order, with weights that grow with recency.

    Interests change over time. By systematic sampling, a late segment is drawn once or twice, an
    early one once or not at all.
    """
    count = len(segments)
    weight = np.exp(_RECENCY * np.arange(count) / max(1, count))
    drawn = np.cumsum(weight) * (count / weight.sum() if count else 0.0)
    points = np.arange(count) + rng.random()
    return segments.take(np.searchsorted(drawn, points).clip(max=count - 1))


def batches(
    segments: Segments, targets_per_batch: int, rng: np.random.Generator
) -> list[npt.NDArray[np.int64]]:
    """Shuffle segments into batches with about equal numbers of targets; returns their indices.

    Segments of a batch have similar lengths, to save padding. Batches are formed within random
    groups of segments, so that they differ from epoch to epoch.
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
