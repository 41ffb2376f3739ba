"""What another model's lists would have been worth, from a log of lists with drawn places. Pure.

The worth of lists is the share of them that the next click follows: the user's next click in the
same session is on an item of the list. That is known for items that were shown. An item of the
other model's list that the log's list did not hold can only be judged by the lists that happened to
hold it, each of which stands for 1 / propensity lists. With the shown items S and the other list L
of one history, r the click (0 or 1) on an item and p its propensity:

    IPS    sum over S ∩ L of r / p                              (Horvitz and Thompson, 1952)
    SNIPS  the same, divided by what sum over S ∩ L of 1 / p is in place of the length of L
           (Swaminathan and Joachims, "The Self-Normalized Estimator for Counterfactual
           Learning", 2015)
    DR     sum over L of m + sum over S ∩ L of (r - m) / p      (Dudík, Langford and Li, "Doubly
           Robust Policy Evaluation and Learning", 2011)

each averaged over lists. m is what is expected of an item anyway: the other model's own
probability, times one factor that is fitted to the lists of other users (two folds). By item,
because a whole list is never drawn again; so all three take it that whether a shown item is clicked
does not depend on what stands beside it (Li et al., "Offline Evaluation of Ranking Policies with
Click Models", 2018, the item model).

IPS counts items that the log could not show as worthless, SNIPS takes them to be worth what the
others are, DR what m says. `Estimates.support` says how many there are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from nextclick.shared.schemas import ExtendedRecommendation, ScoredItem

Estimator: TypeAlias = Literal["ips", "snips", "dr"]
ESTIMATORS: tuple[Estimator, ...] = ("ips", "snips", "dr")
FloatArray = npt.NDArray[np.float64]
_REMEMBERED = 32
"""Newest answers of a user: what a crash can repeat are fewer (MAX_UNCOMMITTED_CLICKS_PER_USER)."""
_NORMAL_95 = 1.959964


@dataclass(slots=True)
class LoggedList:
    """A list with drawn places, and what came of it."""

    user_id: str
    history: list[str]
    profile: str | None
    shown: dict[str, float]
    """Item → propensity, in the order of the list."""
    time_ms: int
    """Of the click that it answers, epoch milliseconds."""
    clicked: str | None = None
    """The next item that the user clicked in the same session; None: there was no such click."""


@dataclass
class Log:
    """Collects lists from answers in their order."""

    gap_ms: int
    """A next click that is later than this is of another session; 0: any next click counts."""
    lists: list[LoggedList] = field(default_factory=list)
    plain: int = 0
    """Answers without drawn places; they only say what was clicked."""
    newest_ms: int = 0
    """The time of the newest click."""
    _open: dict[str, LoggedList] = field(default_factory=dict)
    """By user, the last list, if it has drawn places and no click has followed it."""
    _answered: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def add(self, answer: ExtendedRecommendation) -> None:
        """Take the next answer of a user; one that comes a second time counts once."""
        answered, event = self._answered.get(answer.user_id, ()), hash(answer.event_id)
        if event in answered:
            return
        self._answered[answer.user_id] = (*answered[1 - _REMEMBERED :], event)
        now = answer.click_timestamp
        self.newest_ms = max(self.newest_ms, now)
        if (before := self._open.pop(answer.user_id, None)) is not None:
            same_session = not self.gap_ms or now - before.time_ms <= self.gap_ms
            before.clicked = answer.history[-1] if same_session and answer.history else None
        drawn = answer.exploration
        if drawn is None or len(drawn.propensities) != len(answer.items):
            self.plain += 1
            return
        shown = {i.item_id: p for i, p in zip(answer.items, drawn.propensities, strict=True)}
        entry = LoggedList(answer.user_id, answer.history, answer.profile, shown, now)
        self._open[answer.user_id] = entry
        self.lists.append(entry)

    def judged(self) -> list[LoggedList]:
        """The lists of which it is known what came of them.

        Not those at the end of the log, after which the session may go on. Without a gap no session
        ends, so only lists that a click followed are judged.
        """
        if not self.gap_ms:
            return [one for one in self.lists if one.clicked is not None]
        until = self.newest_ms - self.gap_ms
        return [one for one in self.lists if one.clicked is not None or one.time_ms <= until]


@dataclass(frozen=True)
class Estimate:
    """A share, with a 95 % interval over users."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Estimates:
    """What the lists of one model would have been worth."""

    by: dict[Estimator, Estimate]
    uplift: Estimate
    """DR, less what the lists were worth that were shown: the difference by list."""
    support: Estimate
    """Share of the lists' items that the log could show: around 1 if it could show all."""
    effective_lists: float
    """Kish's effective sample size of the weights of clicked items."""


def shown_worth(lists: Sequence[LoggedList]) -> Estimate:
    """What the lists were worth that were shown."""
    hits = np.array([one.clicked in one.shown for one in lists], np.float64)
    return _mean(hits, np.ones(len(lists)), _users(lists))


def estimate(lists: Sequence[LoggedList], others: Sequence[Sequence[ScoredItem]]) -> Estimates:
    """Estimate what other lists would have been worth in place of those that were shown.

    others: for each list the one that another model has for its history; scores are probabilities.
    Raises ValueError if there is no list, or lists of one user only.
    """
    users = _users(lists)
    if len(lists) == 0 or users.max() == 0:
        raise ValueError("lists of two users at least are needed")
    n = len(lists)
    # Per list: sums over S ∩ L of r / p, 1 / p, score / p; and over L of scores.
    clicked, weights, expected, scores = np.zeros((4, n))
    for row, (one, other) in enumerate(zip(lists, others, strict=True)):
        for item in other:
            scores[row] += item.score
            propensity = one.shown.get(item.item_id)
            if propensity is not None:
                weights[row] += 1 / propensity
                expected[row] += item.score / propensity
                if item.item_id == one.clicked:
                    clicked[row] = 1 / propensity
    each, lengths = np.ones(n), np.array([len(other) for other in others], np.float64)
    length = lengths.mean()
    factor = _factors(clicked, expected, users)
    dr = factor * scores + clicked - factor * expected
    shown = np.array([one.clicked in one.shown for one in lists], np.float64)
    squares = float((clicked**2).sum())
    return Estimates(
        by={
            "ips": _mean(clicked, each, users),
            "snips": _mean(clicked * length, weights, users),
            "dr": _mean(dr, each, users),
        },
        uplift=_mean(dr - shown, each, users),
        support=_mean(weights, lengths, users),
        effective_lists=float(clicked.sum()) ** 2 / squares if squares else 0.0,
    )


def _factors(clicked: FloatArray, expected: FloatArray, users: npt.NDArray[np.int64]) -> FloatArray:
    """By list, the factor on the scores that fits the lists of the other half of the users."""
    fold = users % 2
    by_fold = np.zeros(2)
    for one in range(2):
        total = expected[fold != one].sum()
        by_fold[one] = clicked[fold != one].sum() / total if total > 0 else 0.0
    factors: FloatArray = by_fold[fold]
    return factors


def _users(lists: Sequence[LoggedList]) -> npt.NDArray[np.int64]:
    """By list, the number of its user, from 0 on."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(one.user_id, len(numbers)) for one in lists], np.int64)


def _mean(values: FloatArray, of: FloatArray, users: npt.NDArray[np.int64]) -> Estimate:
    """The ratio of the sums of `values` and `of`, with an interval.

    The users are the sample: the lists of one are not independent (linearised ratio estimator;
    Cochran, Sampling Techniques, 1977). Few clicks with small propensities make its distribution
    skewed, so that the ordinary interval ends too low too often; hence Hall's transformation of
    Student's t ("On the Removal of Skewness by Transformation", 1992).
    """
    total = of.sum()
    if total == 0:
        return Estimate(0.0, 0.0, 1.0)
    mean = float(values.sum() / total)
    of_users = np.bincount(users, weights=values - mean * of)
    count = len(of_users)
    deviation = math.sqrt(float((of_users**2).mean()))
    if deviation == 0:
        return Estimate(mean, mean, mean)
    error = deviation * math.sqrt(count) * math.sqrt(count / max(1, count - 1)) / float(total)
    skew = float((of_users**3).mean()) / deviation**3 / math.sqrt(count)

    def quantile(normal: float) -> float:
        """Of Student's t, from that of its transformation, which is nearly normal."""
        if abs(skew) < 1e-6:
            return normal
        return 3 / skew * (float(np.cbrt(1 + skew * (normal - skew / 6))) - 1)

    return Estimate(mean, mean - quantile(_NORMAL_95) * error, mean - quantile(-_NORMAL_95) * error)
