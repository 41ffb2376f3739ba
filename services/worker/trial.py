"""Does a new model do worse than the one before it, beyond noise? Pure."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from nextclick.services.worker.version_stats import LEAST_JUDGED, HitRate, VersionStats, size_class

WORSE_Z = 3.5
"""Standard errors by which a hit rate must be lower. At four looks, luck alone does that to fewer
than one in a thousand models that are just as good."""

BLOCK, TOO_MANY_SLOW, SLOW_BLOCKS = 100, 6, 3
"""One batch in a hundred is above the p99. Six are luck once in two thousand blocks of a hundred,
three such blocks in a row are not luck …"""
SLOW_FOR_SECONDS = 10.0
"""… but may be somebody else who took the processor for a moment. Not for so long."""

_LONGEST_WATCH = 20
"""A watch ends after so many times its clicks, judged or not: some shops see nobody twice."""


@dataclass(frozen=True)
class Verdict:
    """Why a model must not go on; `reason` is one of a few fixed words, fit for a metric label."""

    reason: str
    text: str


class Trial:
    """Compares a new version with the one before it, for its first so many judged clicks."""

    def __init__(
        self,
        new: VersionStats,
        old: VersionStats,
        clicks: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """The old version's hits before this moment count, if they are enough; `clock`: seconds.

        What is judged afterwards would be users who are slow to return, and only these.
        """
        clicks = max(clicks, LEAST_JUDGED)
        self._new, self._old, self._clock = new, old, clock
        share = old.share()
        self._share = share if share.enough else None
        self._looks = [n for n in (clicks // 8, clicks // 4, clicks // 2) if n >= LEAST_JUDGED]
        self._looks.append(clicks)
        self._later = clicks // 8
        self._limits = old.limits()
        self._answers_left = _LONGEST_WATCH * clicks
        self._batches = self._in_block = self._slow = self._slow_blocks = 0
        self._block_began = self._slow_since = clock()

    @property
    def over(self) -> bool:
        """Nothing was found, and no more will be looked for."""
        seen_enough = not self._looks and self._batches >= SLOW_BLOCKS * BLOCK
        return self._answers_left <= 0 or (seen_enough and self._slow_blocks == 0)

    def scored(self, clicks: int, seconds: float) -> Verdict | None:
        """Look at the new version after a batch; the verdict if it must not go on."""
        self._batches += 1
        self._answers_left -= clicks
        return self._slower(clicks, seconds) or self._worse()

    def _worse(self) -> Verdict | None:
        if not self._looks or self._new.judged < self._looks[0]:
            return None
        old, new = self._share or self._old.share(), self._new.share()
        if not (old.enough and new.enough):
            self._looks[0] = self._new.judged + self._later
            return None
        del self._looks[0]
        if (z := z_of_drop(old, new)) <= WORSE_Z:
            return None
        return Verdict("worse", f"HR@10 {new} clicks, before it {old} (z = {z:.1f})")

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


def z_of_drop(old: HitRate, new: HitRate) -> float:
    """By how many standard errors `new` is below `old`: the z of two proportions, pooled.

    Hits of one user are alike, so the noise is that between users if that is more: the sum over
    users of the squared differences between their hits and what their version's rate has them
    expect.
    """
    if not old.judged or not new.judged:
        return 0.0
    pooled = (old.hits + new.hits) / (old.judged + new.judged)
    variance = 0.0
    for share in (old, new):
        alone, rate = share.judged * pooled * (1 - pooled), share.hits / share.judged
        by_user = sum((hits - rate * judged) ** 2 for hits, judged in share.users)
        by_user *= len(share.users) / max(1, len(share.users) - 1)
        variance += max(alone, by_user) / share.judged**2
    drop = old.hits / old.judged - new.hits / new.judged
    return drop / math.sqrt(variance) if variance > 0 else 0.0
