"""How a model does live, in numbers. Pure.

A list is judged by its user's next click: a hit if that item was among the ten (HR@10).
"""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass

LEAST_JUDGED, LEAST_USERS = 200, 20
"""Judged lists, and users who judged them, below which hit rates are not compared."""

SLOWER_TIMES, SLOWER_SECONDS = 2.0, 0.005
"""A batch is slow above this many times the p99 of batches of its size before, and so much more."""

_LEAST_BATCHES = 100
"""Timed batches of one size below which they have no p99."""
_BATCHES_KEPT = 500


@dataclass(frozen=True)
class HitRate:
    """Hits among judged lists."""

    hits: int
    judged: int
    users: tuple[tuple[int, int], ...] = ()
    """Hits and judged lists of each user."""

    @property
    def enough(self) -> bool:
        """Can it be compared with another?"""
        return self.judged >= LEAST_JUDGED and len(self.users) >= LEAST_USERS

    def __str__(self) -> str:
        return f"{self.hits / max(1, self.judged):.4f} of {self.judged}"


class VersionStats:
    """What is known of one version: its newest lists that were judged, and times of its batches."""

    def __init__(self, version: str, kept: int) -> None:
        """`kept`: how many judged lists count at most, the newest."""
        self.version = version
        self.judged = 0
        """Lists judged ever."""
        self._new_judged = self._new_hits = 0
        self._newest: deque[tuple[str, bool]] = deque(maxlen=kept)
        self._seconds: dict[int, list[float]] = {}
        self._timed: dict[int, int] = {}
        self._random = random.Random(0)

    def judge(self, user: str, hit: bool) -> None:
        """Count one list that a click of its user followed."""
        self._newest.append((user, hit))
        self.judged += 1
        self._new_judged += 1
        self._new_hits += hit

    def scored(self, clicks: int, seconds: float) -> None:
        """Note how long a batch took; of each size, a random sample of the batches is kept."""
        size = size_class(clicks)
        kept = self._seconds.setdefault(size, [])
        seen = self._timed[size] = self._timed.get(size, 0) + 1
        if len(kept) < _BATCHES_KEPT:
            kept.append(seconds)
        elif (place := int(self._random.random() * seen)) < _BATCHES_KEPT:
            kept[place] = seconds

    def take(self) -> HitRate:
        """What was judged since the last call."""
        taken = HitRate(self._new_hits, self._new_judged)
        self._new_judged = self._new_hits = 0
        return taken

    def retire(self) -> None:
        """Forget everything: lists of this version may still be judged, but nobody will ask."""
        self._newest = deque(maxlen=1)
        self._seconds.clear()

    def share(self) -> HitRate:
        """Hits among the newest judged lists."""
        users: dict[str, tuple[int, int]] = {}
        for user, hit in self._newest:
            hits, judged = users.get(user, (0, 0))
            users[user] = hits + hit, judged + 1
        total = sum(hits for hits, _ in users.values())
        return HitRate(total, len(self._newest), tuple(users.values()))

    def limits(self) -> dict[int, float]:
        """Seconds above which a batch is slow, for each size class that has a p99."""
        return {
            size: SLOWER_TIMES * p99(seconds) + SLOWER_SECONDS
            for size, seconds in self._seconds.items()
            if len(seconds) >= _LEAST_BATCHES
        }


def size_class(clicks: int) -> int:
    """Class of a batch: eights of clicks, rounded up, to three binary digits.

    Within a class sizes differ by about a quarter; up to eight clicks take about the same time.
    """
    eights = -(-clicks // 8)
    shift = max(0, eights.bit_length() - 3)
    return eights >> shift << shift


def p99(values: list[float]) -> float:
    """The 99th percentile of at least one value."""
    return sorted(values)[math.ceil(0.99 * len(values)) - 1]
