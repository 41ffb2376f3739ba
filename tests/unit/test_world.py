from __future__ import annotations

import itertools

import numpy as np
import pytest

from services.simulator.world import CATEGORIES, CLICK_PROBABILITY, PERSONAS, World


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def test_the_sources_log_is_reproduced_exactly(world: World) -> None:
    clicks = world.source_clicks(200_000)
    assert len(clicks.users) == 42_027
    assert len(np.unique(clicks.users)) == 1000
    assert len(clicks.users) - len(np.unique(clicks.users)) == 41_027  # positive windows
    assert np.bincount(clicks.users).min() == 17
    assert clicks.items.min() == 1
    assert clicks.items.max() == 50


def test_products_and_personas_are_the_sources(world: World) -> None:
    assert np.bincount(world.category).tolist() == [10] * 5
    assert len(world.persona) == 1000
    assert set(world.persona) == {0, 1, 2, 3}
    puppy = dict(zip(CATEGORIES, CLICK_PROBABILITY["new_puppy_parent"], strict=True))
    assert puppy == {
        "Dog Food": 0.40,
        "Dog Toy": 0.50,
        "Cat Food": 0.10,
        "Cat Toy": 0.05,
        "Fish Supplies": 0.02,
    }


def test_the_fast_generator_obeys_the_same_law(world: World) -> None:
    """Clicks per persona and category: every count within five standard deviations."""
    n = 4_000_000
    clicks = world.fast_clicks(n, seed=5)
    personas = np.bincount(world.persona, minlength=len(PERSONAS))
    for persona, category in itertools.product(range(len(PERSONAS)), range(len(CATEGORIES))):
        p = CLICK_PROBABILITY[PERSONAS[persona]][category]
        met = n * personas[persona] / 1000 * 10 / 50
        mine = world.persona[clicks.users] == persona
        count = (world.category[clicks.items[mine] - 1] == category).sum()
        assert abs(count - met * p) < 5 * np.sqrt(met * p)


def test_the_fast_generator_meets_users_and_products_uniformly(world: World) -> None:
    clicks = world.fast_clicks(2_000_000, seed=6)
    weight = 1 / world.click_probability[world.persona[clicks.users], clicks.items - 1]
    for ids, n in ((clicks.users, 1000), (clicks.items - 1, 50)):
        met = np.bincount(ids, weights=weight, minlength=n)  # unbiased estimate of meetings
        assert met.mean() == pytest.approx(2_000_000 / n, rel=0.01)
        assert met.std() / met.mean() < 0.2


def test_both_generators_click_equally_often(world: World) -> None:
    source = len(world.source_clicks(200_000).users) / 200_000
    fast = len(world.fast_clicks(5_000_000, seed=1).users) / 5_000_000
    assert source == pytest.approx(fast, abs=5 * np.sqrt(0.21 * 0.79 / 200_000))


def test_fast_clicks_are_reproducible_and_a_shorter_log_is_a_prefix(world: World) -> None:
    long = world.fast_clicks(1_500_000, seed=3)
    short = world.fast_clicks(700_000, seed=3)
    assert np.array_equal(long.users[: len(short.users)], short.users)
    assert np.array_equal(long.items[: len(short.items)], short.items)
    assert (np.diff(long.interactions) > 0).all()
    assert long.interactions[-1] < 1_500_000
    assert not np.array_equal(world.fast_clicks(700_000, seed=4).items, short.items)


def test_the_ceiling_is_bayes(world: World) -> None:
    history = [3, 7, 7, 21]
    prior = np.bincount(world.persona) / 1000
    weight = [
        prior[p] * np.prod([world.next_click[p, item - 1] for item in history]) for p in range(4)
    ]
    expected = sum(w * world.next_click[p] for p, w in enumerate(weight)) / sum(weight)
    got = world.next_click_given_history(np.array([[0] * 6 + history]))[0]
    assert got == pytest.approx(expected)


def test_without_a_history_the_ceiling_is_the_mixture(world: World) -> None:
    prior = np.bincount(world.persona) / 1000
    got = world.next_click_given_history(np.zeros((1, 10), np.int64))[0]
    assert got == pytest.approx(prior @ world.next_click)
    assert got.sum() == pytest.approx(1.0)
