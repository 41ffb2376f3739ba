"""Live statistics of a model version: hit rate and scoring times. Pure.

A list is judged by the user's next click: a hit if its item is among the first ten (HR@10).
"""

from __future__ import annotations

import math
import random
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

LEAST_JUDGED = 200
"""Fewest judged lists to compare hit rates."""
LISTS_PER_USER = 10
"""Newest judged lists of one user that count; so LEAST_JUDGED are of 20 users at least."""

SLOWER_TIMES, SLOWER_SECONDS = 2.0, 0.005
"""A batch is slow above SLOWER_TIMES · p99 + SLOWER_SECONDS, with the old version's p99 for batches
of its size."""

_LEAST_BATCHES = 100
"""Fewest timed batches of a size class to compute its p99."""
_BATCHES_KEPT = 500
_NEWEST = (1 << LISTS_PER_USER) - 1


@dataclass(frozen=True)
class HitRate:
    """Hits among judged lists. Its mean is over users, so that each counts once."""

    users: Sequence[tuple[int, int]] = ()
    """(hits, judged lists) of each user, judged lists > 0."""

    @cached_property
    def judged(self) -> int:
        """Judged lists of all users."""
        return sum(judged for _, judged in self.users)

    @cached_property
    def mean(self) -> float:
        """Mean over users of their hit rates; 0 without users."""
        return sum(self.of_users) / max(1, len(self.users))

    @cached_property
    def of_users(self) -> list[float]:
        """The hit rate of each user."""
        return [hits / judged for hits, judged in self.users]

    @property
    def enough(self) -> bool:
        """Whether there are enough judged lists to compare it."""
        return self.judged >= LEAST_JUDGED

    def __str__(self) -> str:
        return f"{self.mean:.4f} of {len(self.users)} users, {self.judged} clicks"


class VersionStats:
    """Statistics of one version: its newest judged lists, and the times of its batches.

    At most LISTS_PER_USER lists of a user count, so users who click very often neither fill the
    memory nor hasten a verdict.
    """

    def __init__(self, version: str, kept: int) -> None:
        """kept: number of users, those judged last, whose lists count."""
        self.version = version
        self.judged = 0
        """Judged lists since the start, at most LISTS_PER_USER of each user."""
        self._new_judged = self._new_hits = 0
        self._kept = kept
        self._users: OrderedDict[str, tuple[int, int]] = OrderedDict()
        """User → the newest lists as bits, 1 for a hit, and their number."""
        self._seconds: dict[int, list[float]] = {}
        self._timed: dict[int, int] = {}
        self._random = random.Random(0)

    def judge(self, user: str, hit: bool) -> None:
        """Count one judged list."""
        self._new_judged += 1
        self._new_hits += hit
        bits, lists = self._users.pop(user, (0, 0))
        if lists < LISTS_PER_USER:
            lists += 1
            self.judged += 1
        self._users[user] = (bits << 1 | hit) & _NEWEST, lists
        if len(self._users) > self._kept:
            self._users.popitem(last=False)

    def scored(self, clicks: int, seconds: float) -> None:
        """Record the time of a batch; a random sample is kept for each size class."""
        size = size_class(clicks)
        kept = self._seconds.setdefault(size, [])
        seen = self._timed[size] = self._timed.get(size, 0) + 1
        if len(kept) < _BATCHES_KEPT:
            kept.append(seconds)
        elif (place := int(self._random.random() * seen)) < _BATCHES_KEPT:
            kept[place] = seconds

    def take_new(self) -> tuple[int, int]:
        """Hits and judged lists since the last call, all of them."""
        taken = self._new_hits, self._new_judged
        self._new_judged = self._new_hits = 0
        return taken

    def retire(self) -> None:
        """Free the memory; later judged lists of this version are counted for the metrics only."""
        self._users.clear()
        self._kept = 0
        self._seconds.clear()

    def hit_rate(self) -> HitRate:
        """The hit rate of the users judged last, from their newest judged lists."""
        return HitRate([(bits.bit_count(), lists) for bits, lists in self._users.values()])

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
