"""Live statistics of a model version: hit rate and scoring times. Pure.

A list is judged by the user's next click: a hit if its item is among the first ten (HR@10).
"""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass

LEAST_JUDGED, LEAST_USERS = 200, 20
"""Fewest judged lists, and fewest users with judged lists, to compare hit rates."""

SLOWER_TIMES, SLOWER_SECONDS = 2.0, 0.005
"""A batch is slow above SLOWER_TIMES · p99 + SLOWER_SECONDS, with the old version's p99 for batches
of its size."""

_LEAST_BATCHES = 100
"""Fewest timed batches of a size class to compute its p99."""
_BATCHES_KEPT = 500


@dataclass(frozen=True)
class HitRate:
    """Hits among judged lists."""

    hits: int
    judged: int
    users: tuple[tuple[int, int], ...] = ()
    """(hits, judged lists) of each user."""

    @property
    def enough(self) -> bool:
        """Whether there are enough judged lists to compare it."""
        return self.judged >= LEAST_JUDGED and len(self.users) >= LEAST_USERS

    def __str__(self) -> str:
        return f"{self.hits / max(1, self.judged):.4f} of {self.judged}"


class VersionStats:
    """Statistics of one version: its newest judged lists, and the times of its batches."""

    def __init__(self, version: str, kept: int) -> None:
        """kept: number of newest judged lists that count."""
        self.version = version
        self.judged = 0
        """Lists judged since the start."""
        self._new_judged = self._new_hits = 0
        self._newest: deque[tuple[str, bool]] = deque(maxlen=kept)
        self._seconds: dict[int, list[float]] = {}
        self._timed: dict[int, int] = {}
        self._random = random.Random(0)

    def judge(self, user: str, hit: bool) -> None:
        """Count one judged list."""
        self._newest.append((user, hit))
        self.judged += 1
        self._new_judged += 1
        self._new_hits += hit

    def scored(self, clicks: int, seconds: float) -> None:
        """Record the time of a batch; a random sample is kept for each size class."""
        size = size_class(clicks)
        kept = self._seconds.setdefault(size, [])
        seen = self._timed[size] = self._timed.get(size, 0) + 1
        if len(kept) < _BATCHES_KEPT:
            kept.append(seconds)
        elif (place := int(self._random.random() * seen)) < _BATCHES_KEPT:
            kept[place] = seconds

    def take_new(self) -> HitRate:
        """Hits and judged lists since the last call."""
        taken = HitRate(self._new_hits, self._new_judged)
        self._new_judged = self._new_hits = 0
        return taken

    def retire(self) -> None:
        """Free the memory; later judged lists of this version are counted for the metrics only."""
        self._newest = deque(maxlen=1)
        self._seconds.clear()

    def hit_rate(self) -> HitRate:
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
    """Size class of a batch: clicks / 8, rounded up, with its leading three binary digits kept.

    Sizes within a class differ by at most about a quarter; up to eight clicks are one class.
    """
    eights = -(-clicks // 8)
    shift = max(0, eights.bit_length() - 3)
    return eights >> shift << shift


def p99(values: list[float]) -> float:
    """The 99th percentile of at least one value."""
    return sorted(values)[math.ceil(0.99 * len(values)) - 1]
