"""The gate: decides whether a candidate replaces the champion. Pure.

All models rank the same cases, so the comparison is paired, and its noise is only that of the
differences.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nextclick.shared.windows import IntArray
from nextclick.trainer.evaluate.bootstrap import paired_interval
from nextclick.trainer.evaluate.metrics import Evaluation, FloatArray

POPULARITY = "popularity"
MAX_CALIBRATION_ERROR = 0.05
"""Beyond noise."""


@dataclass(frozen=True)
class Decision:
    """The decision, and its reason with the numbers."""

    publish: bool
    reason: str
    refusal: str = ""
    """If refused, a metric label: `no_cases`, `same`, `worse`, `baseline`, `calibration` or
    `not_finite`."""


def decide(
    candidate: Evaluation,
    champion: Evaluation | None,
    baselines: Mapping[str, Evaluation],
    users: IntArray,
    k: int = 10,
) -> Decision:
    """Accept a candidate that is not significantly worse than the champion and beats the baselines.

    baselines: name → evaluation, including POPULARITY. users: shape [M], the user of each case. A
    hit rate is the mean over users of their hit rates (macro-averaged), so that each user counts
    once; the bootstrap resamples users.

    Significantly worse: the 95 % interval of the paired difference in hits lies below zero. A
    baseline that the champion does not beat need not be beaten. Without a champion, only POPULARITY
    must be beaten, because it is served until there is a model. A candidate that ranks every case
    exactly as the champion does is refused, and so is one whose probabilities are off by more than
    MAX_CALIBRATION_ERROR, and by more than the champion's, both beyond noise.
    """
    cases = len(candidate.ranks)
    if cases == 0:
        return Decision(False, "no held-out clicks to judge the candidate by", "no_cases")
    _, number = np.unique(users, return_inverse=True)

    def of_users(evaluation: Evaluation) -> FloatArray:
        return np.bincount(number, evaluation.hits(k)) / np.bincount(number)

    new = of_users(candidate)
    means = {name: float(of_users(baseline).mean()) for name, baseline in baselines.items()}
    numbers = ", ".join(
        [f"HR@{k} candidate {new.mean():.4f}", *(f"{n} {mean:.4f}" for n, mean in means.items())]
    )
    to_beat = {POPULARITY} if champion is None else set(means)
    if champion is not None:
        old = of_users(champion)
        low, high = paired_interval(new - old, np.arange(len(new)))
        numbers += (
            f", champion {old.mean():.4f} (difference {(new - old).mean():+.4f}, "
            f"95 % interval {low:+.4f} to {high:+.4f}, {cases} cases of {len(new)} users)"
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
        return Decision(False, reason, "baseline")
    if champion is not None and (error := _calibration_broke(candidate, champion)):
        return Decision(False, f"{error}: {numbers}", "calibration")
    return Decision(True, numbers)


def _calibration_broke(candidate: Evaluation, champion: Evaluation) -> str:
    """What is wrong with the candidate's probabilities of first items; empty if nothing is."""
    new, old = candidate.calibration_error(), champion.calibration_error()
    if new is None or old is None:
        return ""
    most = max(MAX_CALIBRATION_ERROR, old) + candidate.calibration_noise()
    if new <= most:
        return ""
    return (
        f"the probabilities of first items are off by {new:.3f} (ECE; at most {most:.3f}, champion "
        f"{old:.3f})"
    )
