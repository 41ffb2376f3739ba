"""The shop sells and says what the story says, and the ceiling is the law of its clicks."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from nextclick.services.simulator import missions
from nextclick.services.simulator.assortment import MISSIONS, PRODUCTS
from nextclick.services.simulator.missions import BARGAINS, CONVERSION, MissionWorld
from nextclick.services.simulator.shop import Clicks
from nextclick.services.simulator.world import CATEGORIES, CLICK_PROBABILITY, PERSONAS
from nextclick.shared.model import Vocabulary
from nextclick.trainer.data import ClickLog, Samples, Split, click_log, samples
from tests.unit.builders import evaluate_scores

HALF_AN_HOUR = 1_800_000


@pytest.fixture(scope="module")
def world() -> MissionWorld:
    return MissionWorld()


@pytest.fixture(scope="module")
def clicks(world: MissionWorld) -> Clicks:
    return world.clicks(300_000, seed=7)


@pytest.fixture(scope="module")
def log(clicks: Clicks) -> ClickLog:
    """At a click a second; every click that has a history is a case."""
    return everything(clicks, gap_ms=HALF_AN_HOUR)


def everything(clicks: Clicks, gap_ms: int) -> ClickLog:
    frame = pd.DataFrame(
        {
            "user_id": clicks.users.astype(str),
            "item_id": clicks.items,
            "timestamp": clicks.interactions * 1000,
        }
    )
    made = click_log(frame, gap_ms)
    return replace(made, split=np.full(len(made.items), Split.TEST))


def cases_of(world: MissionWorld, log: ClickLog, count: int) -> Samples:
    cases = samples(log, Split.TEST, Vocabulary(world.item_ids))
    return cases.take(np.random.default_rng(0).permutation(len(cases))[:count])


# The story


def test_fifty_named_products_ten_in_each_category(world: MissionWorld) -> None:
    assert set(PRODUCTS) == set(CATEGORIES)
    assert [len(names) for names in PRODUCTS.values()] == [10] * 5
    assert len(set(world.item_ids)) == 50
    assert all(name == name.strip() and "," not in name for name in world.item_ids)
    for row, name in enumerate(world.item_ids):
        assert name in PRODUCTS[CATEGORIES[world.category[row]]]


def test_the_sources_two_sessions_are_missions() -> None:
    station, hygiene = MISSIONS["feeding station"], MISSIONS["pet hygiene"]
    assert station.openers == ("Puppy Food", "Food Bowl", "Water Dispenser")
    assert station.closers == ("Puppy Training Treats", "Placemat for Food Bowls")
    assert hygiene.openers == ("Flea & Tick Prevention", "Dog Shampoo", "Grooming Brush")
    assert hygiene.closers == ("Nail Clippers", "Medicated Ear Wipes")


def test_four_pairs_of_missions_differ_in_order_and_outcome(world: MissionWorld) -> None:
    assert len(MISSIONS) == 10
    for mission in MISSIONS.values():
        assert len({*mission.openers, *mission.closers} & set(world.item_ids)) == 5
    pairs = [
        (one, other)
        for one, other in itertools.combinations(MISSIONS.values(), 2)
        if one.openers == other.openers[::-1]
    ]
    assert len(pairs) == 4
    for one, other in pairs:
        assert not set(one.closers) & set(other.closers)


def test_mission_shares_follow_from_the_sources_click_probabilities(world: MissionWorld) -> None:
    category_of = {name: category for category, names in PRODUCTS.items() for name in names}
    for persona, name in enumerate(PERSONAS):
        likes = dict(zip(CATEGORIES, CLICK_PROBABILITY[name], strict=True))
        means = [
            np.mean([likes[category_of[product]] for product in (*m.openers, *m.closers)])
            for m in MISSIONS.values()
        ]
        assert world.mission_shares[persona] == pytest.approx(np.array(means) / sum(means))
    assert world.next_click.sum(axis=1) == pytest.approx(1)


# The clicks


def test_the_same_seed_gives_the_same_clicks_and_a_shorter_log_is_a_prefix(
    world: MissionWorld, clicks: Clicks
) -> None:
    for count in (0, 1, 9_999, 10_000, 25_000):
        short = MissionWorld().clicks(count, seed=7)
        for ours, theirs in zip(short, clicks, strict=True):
            assert len(ours) == count
            assert np.array_equal(ours, theirs[:count])
    assert not np.array_equal(world.clicks(1000, seed=8).items, clicks.items[:1000])
    assert not np.array_equal(MissionWorld(seed=1).persona, world.persona)


def test_a_click_is_a_tick_of_some_shopper(world: MissionWorld, clicks: Clicks) -> None:
    assert np.array_equal(clicks.interactions, np.arange(300_000))
    assert set(clicks.items) == set(world.item_ids)
    counts = np.bincount(clicks.users, minlength=1000)
    assert counts.min() > 200  # 300 on average, each about 70 sessions of 4.2
    assert counts.max() < 400
    assert np.bincount(world.persona).min() > 200


def test_pauses_are_short_in_a_session_and_over_half_an_hour_between(clicks: Clicks) -> None:
    """At a click a second, so a tick is a second."""
    order = np.argsort(clicks.users, kind="stable")
    same = np.diff(clicks.users[order]) == 0
    pauses = np.diff(clicks.interactions[order])[same]
    short = pauses < 1800
    assert set(pauses[short]) == {50}  # 50 of 1,000 shoppers are active and click in turn
    assert short.mean() == pytest.approx(1 - 1 / 4.236, abs=0.005)
    assert pauses[~short].min() > 1.5 * 1800
    assert np.median(pauses[~short]) < 2 * 3600


def test_a_tenth_leave_at_once_and_few_come_to_ten_clicks(
    world: MissionWorld, log: ClickLog
) -> None:
    """Session lengths against the law of the first k steps, within five standard deviations
    and the 50 sessions that the log's end cuts off."""
    lengths = np.unique(log.starts, return_counts=True)[1]
    state = world.chain.start[0]
    for k in range(1, 12):
        p = state @ world.chain.end
        assert (lengths == k).sum() == pytest.approx(
            len(lengths) * p, abs=5 * np.sqrt(len(lengths) * p) + 50
        )
        state = state @ world.chain.transition
    assert (lengths == 1).mean() == pytest.approx(0.1, abs=0.005)
    assert 0 < (lengths > 10).mean() < 0.01
    assert lengths.mean() == pytest.approx(4.24, abs=0.05)


def test_a_session_begins_with_the_mission_or_a_detour(world: MissionWorld, log: ClickLog) -> None:
    """Chi-square of the first clicks, persona by persona, against the story's law."""
    row_of = {name: row for row, name in enumerate(world.item_ids)}
    first = np.unique(log.starts)
    items = np.array([row_of[name] for name in log.item_ids])[log.items[first]]
    personas = world.persona[log.user_ids[log.users[first]].astype(int)]
    for persona in range(len(PERSONAS)):
        law = 0.15 * world.next_click[persona]
        for share, mission in zip(world.mission_shares[persona], MISSIONS.values(), strict=True):
            law[row_of[mission.openers[0]]] += 0.85 * share
        counts = np.bincount(items[personas == persona], minlength=50)
        expected = law * counts.sum()
        assert counts.sum() > 10_000
        assert ((counts - expected) ** 2 / expected).sum() < 49 + 4 * np.sqrt(2 * 49)


def test_a_feeding_station_ends_as_the_story_says(world: MissionWorld, log: ClickLog) -> None:
    """After the three openers, in a session of four or more clicks: 85 % a closer, half each."""
    station = [log.item_ids.index(name) for name in MISSIONS["feeding station"].openers]
    closers = [log.item_ids.index(name) for name in MISSIONS["feeding station"].closers]
    third = np.flatnonzero(log.starts[:-1] == np.arange(len(log.items) - 1))[:-3] + 3
    third = third[log.starts[third] == third - 3]
    whole = third[(log.items[third[:, None] - [3, 2, 1]] == station).all(axis=1)]
    n = len(whole)
    assert n > 2000
    for closer in closers:  # a detour may lead there, too: 1.5 % at most
        share = (log.items[whole] == closer).mean()
        assert share == pytest.approx(0.425 + 0.006, abs=4 * np.sqrt(0.25 / n))


# The ceiling


def outcome(law: np.ndarray, cases: Samples) -> np.ndarray:
    """P(what happened), shape [M]."""
    return law[np.arange(len(cases)), cases.targets - 1]


@pytest.fixture(
    scope="module", params=["cut at pauses", pytest.param("running on", marks=pytest.mark.long)]
)
def situation(
    request: pytest.FixtureRequest, world: MissionWorld, clicks: Clicks, log: ClickLog
) -> tuple[Samples, float]:
    """Cases, and the rollover that matches how their histories were cut."""
    if request.param == "cut at pauses":
        return cases_of(world, log, 15_000), 0.0
    return cases_of(world, everything(clicks, gap_ms=0), 8_000), 1.0


def test_what_happens_is_as_probable_as_the_ceiling_says(
    world: MissionWorld, situation: tuple[Samples, float]
) -> None:
    cases, rollover = situation
    law = world.next_click_given_history(cases.histories, rollover)
    assert law.sum(axis=1) == pytest.approx(1)
    happened = outcome(law, cases)

    def deviates(observed: np.ndarray, mean: np.ndarray, square: np.ndarray) -> float:
        """How many standard deviations the sum is off; given each case's moments under the law."""
        return float((observed - mean).sum() / np.sqrt((square - mean**2).sum()))

    assert abs(deviates(happened, (law**2).sum(axis=1), (law**3).sum(axis=1))) < 3
    logs = np.log(law)
    surprise = deviates(-np.log(happened), -(law * logs).sum(axis=1), (law * logs**2).sum(axis=1))
    assert abs(surprise) < 3
    item = np.arange(50) == (cases.targets - 1)[:, None]
    for j in range(50):
        assert abs(deviates(item[:, j], law[:, j], law[:, j])) < 4
    for low, high in itertools.pairwise([0, 0.01, 0.05, 0.2, 0.5, 1]):  # reliability
        chosen = (law >= low) & (law < high)
        assert chosen.any()
        p = law[chosen]
        assert abs((item[chosen] - p).sum()) < 4 * np.sqrt((p * (1 - p)).sum())


def test_no_other_distribution_explains_the_clicks_better(
    world: MissionWorld, situation: tuple[Samples, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    cases, rollover = situation
    cases = cases.take(np.arange(3_000))
    law = world.next_click_given_history(cases.histories, rollover)
    best = -np.log(outcome(law, cases)).mean()

    def loss(other: np.ndarray) -> float:
        other = other / other.sum(axis=1, keepdims=True)
        return -np.log(outcome(other, cases)).mean()

    for power in (0.95, 1.05):
        assert loss(law**power) > best
    for share in (0.02, 0.1):
        assert loss((1 - share) * law + share / 50) > best
    assert loss(world.next_click_given_history(cases.histories, abs(rollover - 0.1))) > best
    for name, value in (("DETOUR", 0.11), ("DETOUR", 0.2), ("LEAVE", 0.03), ("LEAVE", 0.2)):
        if name == "LEAVE" and rollover == 0:
            continue  # given that the session goes on, it does not matter how often they do not
        with monkeypatch.context() as changed:
            changed.setattr(missions, name, value)
            assert loss(MissionWorld().next_click_given_history(cases.histories, rollover)) > best
    other_way = np.roll(world.mission_shares, 1, axis=1)
    chain = missions.mission_chain(world.missions, world.next_click, other_way)
    with monkeypatch.context() as changed:
        changed.setattr(world, "chain", chain)
        assert loss(world.next_click_given_history(cases.histories, rollover)) > best


def test_a_full_history_may_begin_anywhere(world: MissionWorld, clicks: Clicks) -> None:
    """Taking it for one that began with a session explains the clicks worse."""
    cases = cases_of(world, everything(clicks, gap_ms=0), 3_000)
    cases = cases.take(np.flatnonzero(cases.histories.all(axis=1)))
    personas = np.bincount(world.persona) / 1000
    start = world.chain.next_click(personas, cases.histories, rollover=1.0, full=11)
    anywhere = world.next_click_given_history(cases.histories)
    assert np.log(outcome(anywhere, cases)).mean() > np.log(outcome(start, cases)).mean()


def shuffled(histories: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(1)
    keys = np.where(histories > 0, rng.random(histories.shape), -1)  # the padding stays left
    return np.take_along_axis(histories, np.argsort(keys, axis=1), axis=1)


def test_shuffling_the_history_costs_much(
    world: MissionWorld, situation: tuple[Samples, float]
) -> None:
    cases, rollover = situation
    in_order, mixed = (
        ndcg(world.next_click_given_history(histories, rollover), cases)
        for histories in (cases.histories, shuffled(cases.histories))
    )
    assert mixed < in_order - 0.1


def ndcg(law: np.ndarray, cases: Samples) -> float:
    jitter = np.random.default_rng(0).random(law.shape) * 1e-9  # ties are broken at random
    return evaluate_scores(np.log(law) + jitter, cases).metrics()["ndcg@10"]


def test_nothing_blind_to_order_reaches_the_ceiling() -> None:
    """The best law of the next click given *which* clicks came before: Bayes over all orders.

    On each shopper's first three clicks, where P(the clicks in some order) is the product of
    the ceiling's own P(next click | clicks so far).
    """
    world = MissionWorld(users=2000)
    log = everything(world.clicks(30_000, seed=2), gap_ms=0)
    cases = samples(log, Split.TEST, Vocabulary(world.item_ids))
    cases = cases.take(np.flatnonzero((cases.histories > 0).sum(axis=1) == 3))
    assert len(cases) > 1500
    blind = np.zeros((len(cases), 50))
    for order in itertools.permutations(range(3)):
        clicks = cases.histories[:, -3:][:, order]
        probability = np.ones(len(cases))
        for seen in range(3):
            law = world.next_click_given_history(np.pad(clicks[:, :seen], ((0, 0), (1, 0))))
            probability *= law[np.arange(len(cases)), clicks[:, seen] - 1]
        blind += probability[:, None] * world.next_click_given_history(clicks)
    blind /= blind.sum(axis=1, keepdims=True)
    ceiling = world.next_click_given_history(cases.histories)
    assert ndcg(blind, cases) < ndcg(ceiling, cases) - 0.02
    assert -np.log(outcome(blind, cases)).mean() > -np.log(outcome(ceiling, cases)).mean() + 0.05


def test_the_order_of_the_openers_decides(world: MissionWorld) -> None:
    rows = Vocabulary(world.item_ids).rows(list(MISSIONS["feeding station"].openers))
    law = world.next_click_given_history(np.array([rows, rows[::-1]]))
    treats, kibble = Vocabulary(world.item_ids).rows(["Puppy Training Treats", "Adult Dog Kibble"])
    assert law[0, treats - 1] > 0.3 > 0.05 > law[0, kibble - 1]
    assert law[1, kibble - 1] > 0.3 > 0.05 > law[1, treats - 1]


def test_without_a_history_the_ceiling_is_the_distribution_of_the_first_click(
    world: MissionWorld,
) -> None:
    law = world.next_click_given_history(np.zeros((1, 10), np.int64), rollover=0.0)[0]
    personas = np.bincount(world.persona) / 1000
    first = np.einsum("p,ps,psi->i", personas, world.chain.start, world.chain.emission)
    assert law == pytest.approx(first)


def test_bargains_are_bought_and_the_others_looked_at(world: MissionWorld, clicks: Clicks) -> None:
    types = world.event_types(clicks, seed=1)
    bargains = np.isin(clicks.items, world.item_ids[BARGAINS - 1 :: BARGAINS])
    for kind, (seldom, often) in CONVERSION.items():
        of_kind = types == kind
        assert of_kind[bargains].mean() == pytest.approx(often, abs=0.01)
        assert of_kind[~bargains].mean() == pytest.approx(seldom, abs=0.01)
    assert set(types) == {"view", *CONVERSION}
    assert (types == world.event_types(clicks, seed=1)).all()


def test_mission_popularity_changes_what_is_begun_and_sold() -> None:
    popularity = {"fussy cat": 0.0, "back from the woods": 0.0, "day in the park": 5.0}
    plain, other = MissionWorld(), MissionWorld(mission_popularity=popularity)
    assert np.array_equal(plain.persona, other.persona)
    before, after = plain.clicks(50_000, seed=1), other.clicks(50_000, seed=1)
    gone = {*MISSIONS["fussy cat"].openers, *MISSIONS["fussy cat"].closers}
    gone |= set(MISSIONS["back from the woods"].closers)
    assert gone <= set(before.items)
    assert not gone & set(after.items)
    assert set(MISSIONS["back from the woods"].openers) <= set(after.items)
    balls = "Tennis Balls"
    assert (after.items == balls).mean() > 2 * (before.items == balls).mean()
    history = other.next_click_given_history(np.array([[other.item_ids.index(balls) + 1]]))
    assert history.sum() == pytest.approx(1)
    assert all(history[0, other.item_ids.index(item)] == 0 for item in gone)
