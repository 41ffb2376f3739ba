"""The gate: decides whether a candidate replaces the champion. Pure.

All models rank the same cases, so the comparison is paired, and its noise is only that of the
differences.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from nextclick.shared.windows import IntArray
from nextclick.trainer.evaluate.bootstrap import paired_interval, sign_flip_p_values
from nextclick.trainer.evaluate.metrics import Evaluation, FloatArray

POPULARITY = "popularity"
MAX_CALIBRATION_ERROR = 0.05
"""Beyond noise."""
SEGMENT_MARGIN = 0.01
"""A candidate may be so much worse in a segment, in hit rate."""
SEGMENT_LEVEL = 0.025
"""Probability of a false refusal by any segment, where the candidate is worse by just the margin;
as that of the comparison over all cases."""
SEGMENT_USERS = 200
"""Segments of fewer users decide nothing: a few bots could have their say there."""


@dataclass(frozen=True)
class SegmentVerdict:
    """How candidate and champion did in a segment of the cases."""

    users: int
    candidate: float
    """Hit rate, a mean over users."""
    champion: float
    p_value: float
    """Of "worse by at most the margin", adjusted for the number of segments."""


@dataclass(frozen=True)
class Decision:
    """The decision, and its reason with the numbers."""

    publish: bool
    reason: str
    refusal: str = ""
    """If refused, a metric label: `no_cases`, `same`, `worse`, `segment`, `baseline`, `calibration`
    or `not_finite`."""
    segments: Mapping[str, SegmentVerdict] = field(default_factory=dict)
    """Of a comparison with a champion."""


def decide(
    candidate: Evaluation,
    champion: Evaluation | None,
    baselines: Mapping[str, Evaluation],
    users: IntArray,
    k: int = 10,
    segments: Mapping[str, npt.NDArray[np.bool_]] | None = None,
) -> Decision:
    """Accept a candidate that is not significantly worse than the champion and beats the baselines.

    baselines: name → evaluation, including POPULARITY. users: shape [M], the user of each case. A
    hit rate is the mean over users of their hit rates (macro-averaged), so that each user counts
    once; the bootstrap resamples users. segments: name → which cases belong to it, shape [M].

    Significantly worse: the 95 % interval of the paired difference in hits lies below zero. So
    is a candidate that is worse in a segment by more than SEGMENT_MARGIN, beyond noise. A
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
    verdicts: dict[str, SegmentVerdict] = {}
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
        verdicts = compare_segments(candidate, champion, number, segments or {}, k)
        if worse := [n for n, one in verdicts.items() if one.p_value <= SEGMENT_LEVEL]:
            reason = " and ".join(
                f"{n} ({verdicts[n].candidate:.4f} to {verdicts[n].champion:.4f}, "
                f"{verdicts[n].users} users)"
                for n in worse
            )
            return Decision(
                False,
                f"worse than the champion by more than {SEGMENT_MARGIN} beyond noise in {reason}: "
                f"{numbers}",
                "segment",
                verdicts,
            )
        to_beat = {name for name in means if old.mean() > means[name]}
    better = [name for name in means if name in to_beat and new.mean() <= means[name]]
    if better or not np.any(new):
        reason = f"no better than {' and '.join(better) or 'nothing'}: {numbers}"
        return Decision(False, reason, "baseline")
    if champion is not None and (error := _calibration_broke(candidate, champion)):
        return Decision(False, f"{error}: {numbers}", "calibration", verdicts)
    return Decision(True, numbers, segments=verdicts)


def compare_segments(
    candidate: Evaluation,
    champion: Evaluation,
    users: IntArray,
    segments: Mapping[str, npt.NDArray[np.bool_]],
    k: int = 10,
) -> dict[str, SegmentVerdict]:
    """Compare two models in each segment of at least SEGMENT_USERS users.

    users: shape [M], numbers from 0. Users are the unit of the sign-flip test; their difference in
    a segment is that of their hit rates there.
    """
    new, old = candidate.hits(k), champion.hits(k)
    count = int(users.max(initial=-1)) + 1
    verdicts, contributions = {}, []
    for name, mask in segments.items():
        cases = np.bincount(users[mask], minlength=count)
        there = cases > 0
        if there.sum() < SEGMENT_USERS:
            continue
        rates = [
            np.bincount(users[mask], hits[mask], count)[there] / cases[there] for hits in (new, old)
        ]
        contribution = np.zeros(count)
        contribution[there] = rates[0] - rates[1] + SEGMENT_MARGIN
        contributions.append(contribution)
        means = [float(rate.mean()) for rate in rates]
        verdicts[name] = SegmentVerdict(int(there.sum()), means[0], means[1], 1.0)
    if not verdicts:
        return {}
    p_values = sign_flip_p_values(np.stack(contributions, axis=1))
    return {
        name: replace(verdict, p_value=float(p))
        for (name, verdict), p in zip(verdicts.items(), p_values, strict=True)
    }


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
