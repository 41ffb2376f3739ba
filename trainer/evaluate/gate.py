"""The gate: may this candidate replace the champion? Pure.

All were ranked against the same newest slice of the log, so the comparison is paired, case by
case, and its noise is that of the differences alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nextclick.shared.windows import IntArray
from nextclick.trainer.evaluate.bootstrap import paired_interval
from nextclick.trainer.evaluate.metrics import Evaluation

POPULARITY = "popularity"


@dataclass(frozen=True)
class Decision:
    """What the gate says, and why, with the numbers."""

    publish: bool
    reason: str
    refusal: str = ""
    """If refused: `no_cases`, `same`, `worse`, `rival` or `not_finite`, fit for a metric label."""


def decide(
    candidate: Evaluation,
    champion: Evaluation | None,
    rivals: Mapping[str, Evaluation],
    users: IntArray,
    k: int = 10,
) -> Decision:
    """Publish a candidate that is not worse than the champion beyond noise, and beats the rivals.

    rivals: what a simple method reaches, by name; POPULARITY is among them. users: shape [M], who
    clicked; noise is judged by drawing whole users anew.

    Worse beyond noise: the bootstrap's 95 % interval of the paired difference lies below zero.
    A rival need not be beaten that the champion does not beat either. Without a champion, anything
    better than the popularity list is better than what is served now. A candidate that ranks every
    case as the champion does is no news, and refused.
    """
    new = candidate.hits(k)
    if len(new) == 0:
        return Decision(False, "no held-out clicks to judge the candidate by", "no_cases")
    means = {name: float(rival.hits(k).mean()) for name, rival in rivals.items()}
    numbers = ", ".join(
        [f"HR@{k} candidate {new.mean():.4f}", *(f"{n} {mean:.4f}" for n, mean in means.items())]
    )
    to_beat = {POPULARITY} if champion is None else set(means)
    if champion is not None:
        old = champion.hits(k)
        low, high = paired_interval(new - old, users)
        numbers += (
            f", champion {old.mean():.4f} (difference {(new - old).mean():+.4f}, "
            f"95 % interval {low:+.4f} to {high:+.4f}, {len(new)} cases)"
        )
        if np.array_equal(candidate.ranks, champion.ranks):
            reason = f"the candidate ranks exactly as the champion does: {numbers}"
            return Decision(False, reason, "same")
        if high < 0:
            return Decision(False, f"worse than the champion beyond noise: {numbers}", "worse")
        to_beat = {name for name in means if old.mean() > means[name]}
    better = [name for name in means if name in to_beat and new.mean() <= means[name]]
    if better or not np.any(new):
        reason = f"no better than {' and '.join(better) or 'nothing'}: {numbers}"
        return Decision(False, reason, "rival")
    return Decision(True, numbers)
