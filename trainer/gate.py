"""The gate: may this candidate replace the champion? Pure.

Both were ranked against the same newest slice of the log, so the comparison is paired, case by
case, and its noise is that of the differences alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from trainer.evaluate import Evaluation

NOISE = 2.0
"""Standard errors of the paired difference that count as noise."""


@dataclass(frozen=True)
class Decision:
    """What the gate says, and why, with the numbers."""

    publish: bool
    reason: str


def decide(
    candidate: Evaluation, champion: Evaluation | None, popularity: Evaluation, k: int = 10
) -> Decision:
    """Publish a candidate that is not worse than the champion beyond noise.

    It must also beat the popularity list, unless the champion does not either: then anything
    not worse is welcome. Without a champion there is nothing to protect, but a first model that
    is beaten by a popularity list is refused too. A candidate that ranks every case as the
    champion does is no news, and refused.
    """
    new = candidate.hits(k)
    if len(new) == 0:
        return Decision(False, "no held-out clicks to judge the candidate by")
    popular_mean = float(popularity.hits(k).mean())
    numbers = f"HR@{k} candidate {new.mean():.4f}, popularity {popular_mean:.4f}"
    champion_beats_popularity = True
    if champion is not None:
        old = champion.hits(k)
        difference = new - old
        standard_error = float(difference.std(ddof=1)) / math.sqrt(len(new)) if len(new) > 1 else 0
        numbers += (
            f", champion {old.mean():.4f} (difference {difference.mean():+.4f}, "
            f"standard error {standard_error:.4f}, {len(new)} cases)"
        )
        if np.array_equal(candidate.ranks, champion.ranks):
            return Decision(False, f"the candidate ranks exactly as the champion does: {numbers}")
        if difference.mean() < -NOISE * standard_error:
            return Decision(False, f"worse than the champion beyond noise: {numbers}")
        champion_beats_popularity = bool(old.mean() > popular_mean)
    if not np.any(new) or (new.mean() <= popular_mean and champion_beats_popularity):
        return Decision(False, f"no better than the popularity list: {numbers}")
    return Decision(True, numbers)
