"""Many simulated experiments at once, judged click by click as the report does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nextclick.services.experiments.statistics import Rates, uplift

HIT_RATE = 0.3
SPREAD = 0.15
"""Standard deviation between users of their hit rates."""
LISTS_PER_USER = 5
"""Judged lists, on average; some users have a hundred times as many as others."""


@dataclass(frozen=True)
class Simulated:
    """Of each experiment."""

    found: npt.NDArray[np.bool_]
    """Whether the interval left out 0 at any look."""
    missed: npt.NDArray[np.bool_]
    """Whether the interval left out the truth at any look."""
    at: npt.NDArray[np.int64]
    """Judged lists when 0 was left out first; all of them if never."""


def simulate(
    experiments: int, users: int, share: float, lift: float, looks: int, seed: int
) -> Simulated:
    """Users differ in how often they click and hit; lift: how much higher b's hit rate is."""
    rng = np.random.default_rng(seed)
    sure = HIT_RATE * (1 - HIT_RATE) / SPREAD**2 - 1
    rates = rng.beta(HIT_RATE * sure, (1 - HIT_RATE) * sure, (experiments, users))
    in_b = rng.random((experiments, users)) < share
    rates = np.clip(rates + lift * in_b, 0, 1).ravel()
    lists, hits = np.zeros(experiments * users), np.zeros(experiments * users)
    judged = users * LISTS_PER_USER // looks
    found, missed = np.zeros(experiments, bool), np.zeros(experiments, bool)
    at = np.full(experiments, judged * looks)
    first = np.arange(experiments)[:, None] * users
    for look in range(looks):
        who = (first + (users * rng.random((experiments, judged)) ** 2).astype(np.int64)).ravel()
        hit = who[rng.random(len(who)) < rates[who]]
        lists += np.bincount(who, minlength=len(lists))
        hits += np.bincount(hit, minlength=len(lists))
        means = (hits / np.maximum(lists, 1)).reshape(experiments, users)
        seen = (lists > 0).reshape(experiments, users)
        arms = [
            (of.sum(1), np.where(of, means, 0).sum(1), np.where(of, means**2, 0).sum(1))
            for of in (seen & ~in_b, seen & in_b)
        ]
        for i in range(experiments):
            a, b = (Rates(int(n[i]), float(s[i]), float(q[i])) for n, s, q in arms)
            interval = uplift(a, b)
            if interval is None:
                continue
            missed[i] |= not interval.low <= lift <= interval.high
            if not found[i] and not interval.low <= 0 <= interval.high:
                found[i], at[i] = True, judged * (look + 1)
    return Simulated(found, missed, at)
