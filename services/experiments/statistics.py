"""Statistics of a live experiment that hold however often one looks. Pure.

An ordinary 95 % interval misses the truth more and more often the more often one looks and stops
when it is pleasant. These hold for all looks together: with a probability of 95 % the true
difference is in *every* interval of an experiment.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

ALPHA = 0.05
SCALE = 0.02
"""The difference for which intervals are made narrowest: two points of a rate. Of any other
difference they hold as well, and are a little wider than they could be."""
LEAST_USERS = 100
"""Fewest judged users of an arm for an interval, which is asymptotic: it rests on the central limit
theorem."""
RATIO_ALPHA = 0.001
"""Of a right split, at most so many experiments are ever said to have a wrong one."""
_RATIO_WEIGHT = 1000.0
"""How sure the mixture over wrong splits is of the right one, in users."""


@dataclass(slots=True)
class Rates:
    """Sums over the users of an arm of their rates, each in [0, 1]. A user counts once."""

    users: int = 0
    total: float = 0.0
    squares: float = 0.0

    def replace(self, old: float | None, new: float) -> None:
        """Count a user's rate in place of the former one; None: the user is new."""
        if old is None:
            self.users += 1
            old = 0.0
        self.total += new - old
        self.squares += new * new - old * old

    @property
    def mean(self) -> float:
        """The mean over users; 0 without users."""
        return self.total / max(1, self.users)

    @property
    def variance_of_mean(self) -> float:
        """The estimated variance of `mean`, from the differences between users."""
        if self.users < 2:
            return math.inf
        between = max(0.0, self.squares - self.total**2 / self.users) / (self.users - 1)
        return between / self.users


@dataclass(frozen=True)
class Uplift:
    """The difference of the means of b and a, with its interval."""

    estimate: float
    low: float
    high: float


def uplift(a: Rates, b: Rates, alpha: float = ALPHA) -> Uplift | None:
    """How much higher the mean of b is; None if there are too few users to say.

    The interval is of an asymptotic confidence sequence (Waudby-Smith et al., "Time-uniform central
    limit theory and asymptotic confidence sequences", 2024), with Robbins' normal mixture; its
    complement is the mixture sequential probability ratio test (Johari et al., "Always Valid
    Inference", 2022). Users are the sample, because they are what is split at random, and the
    clicks of one user are correlated.
    """
    if min(a.users, b.users) < LEAST_USERS:
        return None
    error = math.sqrt(a.variance_of_mean + b.variance_of_mean)
    if error == 0.0:
        return None
    estimate, width = b.mean - a.mean, half_width(error, alpha)
    return Uplift(estimate, max(-1.0, estimate - width), min(1.0, estimate + width))


def half_width(error: float, alpha: float = ALPHA) -> float:
    """Half the width of the interval around an estimate with this standard error, > 0."""
    ratio = (SCALE / error) ** 2
    return error * math.sqrt((1 + 1 / ratio) * math.log((1 + ratio) / alpha**2))


def ratio_p_value(users_a: int, users_b: int, share: float) -> float:
    """How compatible the numbers of users are with the share of b; at most 1.

    Below RATIO_ALPHA there is a sample-ratio mismatch: one arm loses users, so it is not what the
    split made of it. Always valid, exactly (Lindon & Malek, "Anytime-Valid Inference for
    Multinomial Count Data", 2022): one over the likelihood ratio of a beta mixture over splits to
    the intended split.
    """
    prior_a, prior_b = _RATIO_WEIGHT * (1 - share), _RATIO_WEIGHT * share
    log_ratio = (
        _log_beta(prior_a + users_a, prior_b + users_b)
        - _log_beta(prior_a, prior_b)
        - users_a * math.log1p(-share)
        - users_b * math.log(share)
    )
    return math.exp(min(0.0, -log_ratio))


def _log_beta(x: float, y: float) -> float:
    return math.lgamma(x) + math.lgamma(y) - math.lgamma(x + y)
