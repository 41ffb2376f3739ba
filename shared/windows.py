"""Sessions and windows: the one definition that training and serving share. Pure.

A *session* is a run of one user's clicks, in the order of the user's partition, without a pause
of more than `gap_ms` of event time. A *window* is what the model sees: the last
HISTORY_LENGTH clicks of the session, as catalogue rows, left-padded with PADDING.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

HISTORY_LENGTH = 10
PADDING = 0
"""Catalogue row of "no item", and of an id outside the vocabulary."""

IntArray = npt.NDArray[np.int64]


def starts_new_session(clock_ms: int, timestamp_ms: int, gap_ms: int) -> bool:
    """Whether a click at `timestamp_ms` starts a new session.

    `clock_ms` is the newest event time seen from this user so far, so a late click (its
    timestamp in the past) neither reorders nor splits a session. `gap_ms` 0 means never.
    """
    return gap_ms > 0 and timestamp_ms - clock_ms > gap_ms


def session_starts(users: IntArray, timestamps: IntArray, gap_ms: int) -> IntArray:
    """For each click, the index of the first click of its session.

    users, timestamps: shape [N]; the clicks of each user adjacent and in stream order.
    Returns shape [N]. The vectorised form of `starts_new_session`; a property test holds the
    two together.
    """
    n = len(users)
    if n == 0:
        return np.zeros(0, np.int64)
    first_of_user = np.r_[True, users[1:] != users[:-1]]
    opens = first_of_user.copy()
    if gap_ms > 0:
        # Running maximum per user: shift each user's times above those of all earlier users, then
        # take one global running maximum. On ranks of times: shifted times themselves overflow.
        times, rank = np.unique(timestamps, return_inverse=True)
        lift = np.cumsum(first_of_user) * len(times)
        clock = times[np.maximum.accumulate(rank + lift) % len(times)]
        opens[1:] |= timestamps[1:] - clock[:-1] > gap_ms
    return np.maximum.accumulate(np.where(opens, np.arange(n), 0))


def windows(rows: IntArray, starts: IntArray, ends: IntArray) -> IntArray:
    """Cut the windows rows[start:end], each at most its last HISTORY_LENGTH entries.

    rows: shape [N], catalogue rows of clicks, PADDING where the item is unknown.
    starts, ends: shape [M], half-open ranges into `rows`.
    Returns shape [M, HISTORY_LENGTH], left-padded. Unknown items are dropped, so the known
    ones stay adjacent at the right end.
    """
    index = ends[:, None] + np.arange(-HISTORY_LENGTH, 0)
    inside = index >= starts[:, None]
    if len(rows) == 0:
        return np.full((len(ends), HISTORY_LENGTH), PADDING, np.int64)
    cut = np.where(inside, rows[np.where(inside, index, 0)], PADDING)
    known = cut != PADDING
    if (known[:, 1:] < known[:, :-1]).any():  # an unknown item between known ones
        cut = np.take_along_axis(cut, np.argsort(known, axis=1, kind="stable"), axis=1)
    return cut
