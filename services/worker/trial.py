"""Tests whether a new model version is significantly worse or slower than the previous. Pure."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from nextclick.services.worker.version_stats import LEAST_JUDGED, HitRate, VersionStats, size_class

WORSE_Z = 3.5
"""A hit rate that is lower by more than this many standard errors is worse. With four interim looks
fewer than one in a thousand equally good models is rejected by chance."""
CROWD, CROWD_SHARE = 40, 0.25
"""Users who may be bots that click for or against a version: so many, and at most this share of the
users of the old version. A drop counts as far as it exceeds what they can cause."""

BLOCK, TOO_MANY_SLOW, SLOW_BLOCKS = 100, 6, 3
"""A version is slower if SLOW_BLOCKS blocks of BLOCK batches in a row have TOO_MANY_SLOW slow
batches each. Of 100 batches, one is expected above the p99; six by chance happen once in two
thousand blocks."""
SLOW_FOR_SECONDS = 10.0
"""The slow blocks must last this long: other processes may take the processor for a moment."""

_MAX_ANSWERS_PER_CLICK = 20
"""A trial ends after this many times its clicks, even if few of them are judged, as in a shop whose
users rarely return."""


@dataclass(frozen=True)
class Verdict:
    """Why a version is rejected; `reason` is one of a few fixed words, used as a metric label."""

    reason: str
    text: str


class Trial:
    """Compares a new version with the previous one, over the first judged clicks of the new."""

    def __init__(
        self,
        new: VersionStats,
        old: VersionStats,
        clicks: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """clicks: judged clicks of the trial; clock: seconds.

        The hit rate of the old version is taken now, if it has enough judged lists: lists judged
        later would be those of users who are slow to return, a biased sample.
        """
        clicks = max(clicks, LEAST_JUDGED)
        self._new, self._old, self._clock = new, old, clock
        rate_of_old = old.hit_rate()
        self._old_rate = rate_of_old if rate_of_old.enough else None
        self._looks = [n for n in (clicks // 8, clicks // 4, clicks // 2) if n >= LEAST_JUDGED]
        self._looks.append(clicks)
        self._retry_after = clicks // 8
        self._limits = old.limits()
        self._answers_left = _MAX_ANSWERS_PER_CLICK * clicks
        self._batches = self._in_block = self._slow = self._slow_blocks = 0
        self._block_began = self._slow_since = clock()

    @property
    def over(self) -> bool:
        """Whether the trial has ended without a rejection."""
        seen_enough = not self._looks and self._batches >= SLOW_BLOCKS * BLOCK
        return self._answers_left <= 0 or (seen_enough and self._slow_blocks == 0)

    def scored(self, clicks: int, seconds: float) -> Verdict | None:
        """Record a batch of the new version; returns a verdict if the version is rejected."""
        self._batches += 1
        self._answers_left -= clicks
        return self._slower(clicks, seconds) or self._worse()

    def _worse(self) -> Verdict | None:
        if not self._looks or self._new.judged < self._looks[0]:
            return None
        old, new = self._old_rate or self._old.hit_rate(), self._new.hit_rate()
        if not (old.enough and new.enough):
            self._looks[0] = self._new.judged + self._retry_after
            return None
        del self._looks[0]
        crowd = min(CROWD, CROWD_SHARE * len(old.users))
        if (z := z_of_drop(old, new, crowd)) > WORSE_Z:
            return Verdict("worse", f"HR@10 {new}, before it {old} (z = {z:.1f})")
        if not self._looks and z_of_drop(old, new) > WORSE_Z:
            # Worse, or a crowd of bots: more users will tell.
            self._looks.append(2 * self._new.judged)
        return None

    def _slower(self, clicks: int, seconds: float) -> Verdict | None:
        limit = self._limits.get(size_class(clicks))
        if limit is None:
            return None
        self._in_block += 1
        self._slow += seconds > limit
        if self._in_block < BLOCK:
            return None
        now, began, slow = self._clock(), self._block_began, self._slow
        self._in_block, self._slow, self._block_began = 0, 0, now
        if slow < TOO_MANY_SLOW:
            self._slow_blocks = 0
            return None
        if self._slow_blocks == 0:
            self._slow_since = began
        self._slow_blocks += 1
        if self._slow_blocks < SLOW_BLOCKS or now - self._slow_since < SLOW_FOR_SECONDS:
            return None
        return Verdict(
            "slower",
            f"{slow} of the last {BLOCK} batches took more than twice the p99 of the model before "
            f"it (the last one {1000 * seconds:.1f} ms, limit {1000 * limit:.1f} ms for {clicks} "
            f"clicks), for {now - self._slow_since:.0f} s",
        )


def z_of_drop(old: HitRate, new: HitRate, crowd: float = 0.0) -> float:
    """The z statistic of the drop of the mean hit rate of users from `old` to `new`.

    The lists of one user are correlated, so users are the sample. The variance of each mean is the
    larger one of the binomial variance at the pooled rate and the variance between users.

    crowd: the drop is first reduced by what so many users can cause, if they all hit with the old
    version and miss with the new one.
    """
    users = min(len(old.users), len(new.users))
    if not users:
        return 0.0
    pooled = sum(old.of_users + new.of_users) / (len(old.users) + len(new.users))
    variance = 0.0
    for version in (old, new):
        count = len(version.users)
        binomial = pooled * (1 - pooled) * sum(1 / judged for _, judged in version.users)
        between = sum((rate - version.mean) ** 2 for rate in version.of_users)
        between *= count / max(1, count - 1)
        variance += max(binomial, between) / count**2
    drop = old.mean - new.mean - crowd / users
    return drop / math.sqrt(variance) if variance > 0 else 0.0
