"""Bounds how much one user counts in a log, so that bots do not decide what is learned. Pure.

Known as contribution bounding (Amin et al., "Bounding User Contributions: A Bias-Variance
Trade-off", 2019). Clicks are left out, not weighed: so training, evaluation, baselines and
popularity all see the same bounded log. The event log keeps every click.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from nextclick.shared.windows import IntArray

LEAST_LIMIT = 50
"""A user with at most so many clicks is never bounded."""
_FENCE = 3.0
"""Interquartile ranges above the upper quartile: Tukey's outer fence for far outliers."""
_MINUTE_MS = 60_000

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class LeftOut:
    """Clicks of a log that do not count."""

    rate: int = 0
    """Clicks beyond the limit per user and minute."""
    share: int = 0
    """Older clicks of users with more than `limit`."""
    users: int = 0
    """Users with clicks that are left out."""
    limit: int = 0
    """Most clicks of one user that count."""

    def __str__(self) -> str:
        """For the log."""
        return (
            f"{self.rate + self.share} clicks of {self.users} users do not count: {self.rate} came "
            f"too fast, {self.share} are more than {self.limit} of one user"
        )


def bound_contributions(
    frame: pd.DataFrame, max_per_minute: int = 0
) -> tuple[pd.DataFrame, LeftOut]:
    """Leave out what one user clicks too fast, and what is far more than other users click.

    frame: columns user_id and timestamp (epoch ms); rows in stream order. max_per_minute: clicks of
    one user in one minute (of the clock) that count; 0: all. Of what is left the newest clicks of a
    user count, at most as many as `click_limit` says. Returns the other rows, and what is missing.
    """
    users, _ = pd.factorize(frame["user_id"])
    kept = _within_rate(users, frame["timestamp"].to_numpy(np.int64), max_per_minute)
    too_fast = ~kept
    limit = click_limit(np.bincount(users[kept]))
    kept[kept] = _place_from_end(users[kept]) < limit
    left_out = LeftOut(
        rate=int(too_fast.sum()),
        share=int((~kept & ~too_fast).sum()),
        users=len(np.unique(users[~kept])),
        limit=limit,
    )
    return (frame if kept.all() else frame[kept].reset_index(drop=True)), left_out


def click_limit(clicks: IntArray) -> int:
    """Most clicks of one user that count: Tukey's outer fence, Q3 + 3 · (Q3 − Q1).

    clicks: shape [users]. The quartiles are those of users with at least two clicks, because the
    others have no next click. Up to a quarter of the users cannot move the fence far, however much
    they click. At least LEAST_LIMIT.
    """
    returning = clicks[clicks >= 2]
    if len(returning) == 0:
        return LEAST_LIMIT
    low, high = np.quantile(returning, [0.25, 0.75])
    return max(LEAST_LIMIT, int(high + _FENCE * (high - low)))


def _within_rate(users: IntArray, timestamps: IntArray, max_per_minute: int) -> Mask:
    """Shape [N]: true for the first `max_per_minute` clicks of each user and minute."""
    kept = np.ones(len(users), bool)
    many = np.flatnonzero(np.bincount(users)[users] > max_per_minute)
    if max_per_minute == 0 or len(many) == 0:
        return kept
    minutes = timestamps[many] // _MINUTE_MS
    pair = users[many] * (np.ptp(minutes) + 1) + minutes - minutes.min()
    kept[many] = _place_from_end(pair[::-1])[::-1] < max_per_minute
    return kept


def _place_from_end(group: IntArray) -> IntArray:
    """For each element, the number of later elements of its group: shape [N]."""
    order = np.argsort(group, kind="stable")
    ordered = group[order]
    is_last = np.r_[ordered[1:] != ordered[:-1], True][: len(ordered)]
    index = np.arange(len(ordered))
    last = np.minimum.accumulate(np.where(is_last, index, len(ordered))[::-1])[::-1]
    place = np.empty(len(group), np.int64)
    place[order] = last - index
    return place
