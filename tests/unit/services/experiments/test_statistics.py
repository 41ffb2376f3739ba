from __future__ import annotations

import math
import random

import numpy as np
import pytest

from nextclick.services.experiments.statistics import (
    ALPHA,
    LEAST_USERS,
    RATIO_ALPHA,
    SCALE,
    Rates,
    half_width,
    ratio_p_value,
    uplift,
)
from tests.unit.services.experiments.simulated import LISTS_PER_USER, simulate


def rates(users: int, mean: float) -> Rates:
    """Of users who all hit or miss."""
    hits = users * mean
    return Rates(users, hits, hits)


def test_of_200_experiments_on_equal_models_at_most_5_percent_find_something() -> None:
    """Looked at 40 times each."""
    same = simulate(200, 2_000, 0.5, 0.0, looks=40, seed=1)
    assert same.found.mean() <= ALPHA
    assert np.array_equal(same.found, same.missed)


def test_two_points_are_found_within_the_clicks_that_the_documentation_promises() -> None:
    """docs/ab-tests.md: 75,000 judged lists, half of the users in b."""
    better = simulate(40, 75_000 // LISTS_PER_USER, 0.5, 0.02, looks=25, seed=2)
    assert better.found.mean() >= 0.8
    assert better.missed.mean() <= ALPHA


def test_an_ordinary_interval_would_not_do() -> None:
    """The simulation can tell: with 1.96 standard errors, peeking finds what is not there."""
    rng = np.random.default_rng(0)
    walk = rng.standard_normal((500, 400)).cumsum(axis=1)[:, 20:]
    z = np.abs(walk) / np.sqrt(np.arange(21, 401))
    assert (z > 1.96).any(axis=1).mean() > 0.2
    widths = np.array([half_width(1 / math.sqrt(n)) for n in range(21, 401)])
    assert (z / np.sqrt(np.arange(21, 401)) > widths).any(axis=1).mean() < ALPHA


def test_the_interval_is_that_of_the_mixture_ratio_test() -> None:
    """At its end, the likelihood ratio of a normal mixture of scale SCALE to 0 is 1/alpha."""
    for error in (0.0005, 0.005, 0.02, 0.3):
        z, ratio = half_width(error) / error, (SCALE / error) ** 2
        likelihood = math.exp(z**2 * ratio / (2 * (1 + ratio))) / math.sqrt(1 + ratio)
        assert likelihood == pytest.approx(1 / ALPHA)


def test_too_few_users_have_no_interval() -> None:
    enough = rates(LEAST_USERS, 0.5)
    assert uplift(enough, rates(LEAST_USERS - 1, 0.5)) is None
    assert uplift(rates(LEAST_USERS - 1, 0.5), enough) is None
    assert uplift(rates(1000, 0.0), rates(1000, 0.0)) is None, "nothing is known of the variance"
    found = uplift(enough, enough)
    assert found is not None
    assert found.low < found.estimate == 0 < found.high


def test_a_users_rate_replaces_the_former_one() -> None:
    rng = random.Random(0)
    found, now = Rates(), dict[int, float]()
    for _ in range(500):
        user = rng.randrange(50)
        found.replace(now.get(user), rate := rng.random())
        now[user] = rate
    values = list(now.values())
    assert found.users == len(values)
    assert found.mean == pytest.approx(np.mean(values))
    assert found.variance_of_mean == pytest.approx(np.var(values, ddof=1) / len(values))
    assert Rates().mean == 0
    assert Rates().variance_of_mean == math.inf


@pytest.mark.parametrize("share", [0.5, 0.2, 0.01])
def test_a_right_split_is_not_called_wrong_however_often_one_looks(share: float) -> None:
    rng = np.random.default_rng(4)
    wrong = 0
    for _ in range(100):
        in_b = (rng.random((200, 50)) < share).sum(axis=1).cumsum()
        ps = [ratio_p_value(50 * (i + 1) - n, n, share) for i, n in enumerate(in_b.tolist())]
        wrong += min(ps) < 0.05
    assert wrong <= 5 + 4
    assert ratio_p_value(0, 0, share) == 1


@pytest.mark.parametrize(
    ("users_a", "users_b", "share"), [(5000, 4400, 0.5), (80_000, 18_000, 0.2)]
)
def test_a_wrong_split_is_seen(users_a: int, users_b: int, share: float) -> None:
    assert ratio_p_value(users_a, users_b, share) < RATIO_ALPHA
    assert ratio_p_value(users_a, int(users_a * share / (1 - share)), share) == 1
