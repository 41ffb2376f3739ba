from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextclick.services.simulator.world import CATEGORIES, CLICK_PROBABILITY, PERSONAS, World
from tests.unit.builders import source_clicks


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


def test_traffic_has_the_click_probabilities_of_the_source(world: World) -> None:
    """Clicks per persona and category: every count within five standard deviations."""
    n = 4_000_000
    clicks = source_clicks(world, n, seed=5)
    personas = np.bincount(world.persona, minlength=len(PERSONAS))
    for persona, category in itertools.product(range(len(PERSONAS)), range(len(CATEGORIES))):
        p = CLICK_PROBABILITY[PERSONAS[persona]][category]
        met = n * personas[persona] / 1000 * 10 / 50
        mine = world.persona[clicks.users] == persona
        count = (world.category[clicks.items[mine] - 1] == category).sum()
        assert abs(count - met * p) < 5 * np.sqrt(met * p)


def test_traffic_draws_users_and_products_uniformly(world: World) -> None:
    clicks = source_clicks(world, 2_000_000, seed=6)
    weight = 1 / world.click_probability[world.persona[clicks.users], clicks.items - 1]
    for ids, n in ((clicks.users, 1000), (clicks.items - 1, 50)):
        met = np.bincount(ids, weights=weight, minlength=n)  # unbiased estimate of meetings
        assert met.mean() == pytest.approx(2_000_000 / n, rel=0.01)
        assert met.std() / met.mean() < 0.2


def test_traffic_has_as_many_clicks_as_the_source_log(world: World) -> None:
    source = len(world.source_clicks(200_000).users) / 200_000
    traffic = len(source_clicks(world, 5_000_000, seed=1).users) / 5_000_000
    assert source == pytest.approx(traffic, abs=5 * np.sqrt(0.21 * 0.79 / 200_000))


def test_traffic_is_reproducible(world: World) -> None:
    first, again = (source_clicks(world, 700_000, seed=3) for _ in range(2))
    for column, same in zip(first, again, strict=True):
        assert np.array_equal(column, same)
    assert (np.diff(first.interactions) > 0).all()
    assert not np.array_equal(source_clicks(world, 700_000, seed=4).items, first.items)


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


def test_drawing_the_sources_log_does_not_use_the_world_up(world: World) -> None:
    long, short = world.source_clicks(2000), world.source_clicks(1000)
    for ours, theirs in zip(short, long, strict=True):
        assert np.array_equal(ours, theirs[: len(ours)])
    assert long.interactions[-1] < 2000
    assert len(world.source_clicks(0).users) == 0


def test_given_the_persona_clicks_are_independent(world: World) -> None:
    """Chi-square of a shopper's click against the one before, category by category."""
    clicks = source_clicks(world, 3_000_000, seed=8)
    order = np.argsort(clicks.users, kind="stable")
    users, category = clicks.users[order], world.category[clicks.items[order] - 1]
    same = users[1:] == users[:-1]
    for persona in range(len(PERSONAS)):
        pairs = same & (world.persona[users[1:]] == persona)
        table = np.histogram2d(category[:-1][pairs], category[1:][pairs], bins=5)[0]
        expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
        assert table.sum() > 100_000
        assert ((table - expected) ** 2 / expected).sum() < 50  # 16 degrees: p < 0.00003


def test_next_click_probabilities_are_normalised_click_probabilities(world: World) -> None:
    assert world.next_click.sum(axis=1) == pytest.approx(1.0)
    ratio = world.click_probability / world.next_click
    assert ratio == pytest.approx(np.repeat(ratio[:, :1], 50, axis=1))


@given(
    histories=st.lists(st.lists(st.integers(1, 50), max_size=10), min_size=1, max_size=5),
)
def test_the_ceiling_is_bayes_by_brute_force(world: World, histories: list[list[int]]) -> None:
    batch = np.array([[0] * (10 - len(history)) + history for history in histories])
    got = world.next_click_given_history(batch)
    assert got.shape == (len(histories), 50)
    assert got.sum(axis=1) == pytest.approx(1.0)
    for row, history in zip(got, histories, strict=True):
        joint = [
            (world.persona == p).mean() * math.prod(world.next_click[p, i - 1] for i in history)
            for p in range(len(PERSONAS))
        ]
        for item in (1, 25, 50):
            expected = sum(j * world.next_click[p, item - 1] for p, j in enumerate(joint)) / sum(
                joint
            )
            assert row[item - 1] == pytest.approx(expected)


def test_a_telling_history_leaves_one_persona(world: World) -> None:
    fish = np.flatnonzero(world.category == CATEGORIES.index("Fish Supplies")) + 1
    got = world.next_click_given_history(fish[None, :])[0]
    assert got == pytest.approx(world.next_click[PERSONAS.index("fish_hobbyist")], abs=1e-4)


def test_a_history_of_any_length_has_a_ceiling(world: World) -> None:
    """The likelihood of 5,000 clicks is far below the smallest double."""
    got = world.next_click_given_history(np.full((1, 5000), 1))[0]
    assert got.sum() == pytest.approx(1.0)
