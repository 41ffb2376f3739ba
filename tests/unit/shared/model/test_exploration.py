"""Drawn places: what may be drawn, how often it is, and that the messages' propensities say so."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from nextclick.shared.items import NOTHING_KNOWN, ItemAttributes
from nextclick.shared.model import KeptOut, Ranking, Scorer, seed_of
from nextclick.shared.model.exploration import Strata, draw, uniform
from nextclick.shared.profiles import Exploration, Profile
from nextclick.shared.schemas import KeptOutItems
from tests.unit.builders import CPU, checkpoint
from tests.unit.profile_oracle import Asked
from tests.unit.shared.model.test_profiles_in_lists import (
    BASE,
    attributes_drawn,
    ids,
    profiles_drawn,
)

ITEMS = 30
SCORER = Scorer(checkpoint(ITEMS), CPU, top_k=10)
"""Item 1 has 30 users, item 30 has one."""
explorations = st.builds(
    Exploration,
    slots=st.integers(1, 3),
    new_slots=st.integers(0, 2),
    candidates=st.integers(5, 40),
    new_below=st.integers(1, 40),
    temperature=st.sampled_from([0.5, 1.0, 5.0]),
)


def listed(
    profile: Profile,
    history: list[str],
    seed: int | None,
    attributes: ItemAttributes = BASE,
    withheld: frozenset[str] = frozenset(),
    k: int = 10,
) -> Ranking:
    constraints = [SCORER.prepare([profile], attributes)(k, False)]
    (ranking,) = SCORER.recommend(
        [history], constraints, withheld, None if seed is None else [seed]
    )
    return ranking


@given(
    profiles_drawn(),
    explorations,
    attributes_drawn,
    st.frozensets(ids, max_size=20),
    st.sampled_from([["1"], ["3", "9"], [], ["unknown"]]),
    st.integers(0, 2**64 - 1),
    st.integers(1, 10),
)
def test_a_list_with_drawn_places_keeps_to_all_constraints(
    profile: Profile,
    exploration: Exploration,
    changes: dict[str, object],
    withheld: frozenset[str],
    history: list[str],
    seed: int,
    k: int,
) -> None:
    attributes = BASE.changed(changes)  # type: ignore[arg-type]
    explores = profile.model_copy(update={"exploration": exploration})
    ranking = listed(explores, history, seed, attributes, withheld, k)
    shown = [item.item_id for item in ranking.items]
    assert len({*shown}) == len(shown) <= k
    asked = Asked([profile], attributes, withheld, k)
    assert all(asked.allowed(item_id) for item_id in shown)
    if profile.max_per_category is not None:
        names = Counter(name for item_id in shown for name in attributes.get(item_id).categories)
        assert max(names.values(), default=0) <= profile.max_per_category
    places = min(exploration.places, k - 1)
    if not places:
        assert ranking.drawn is None
        return
    # The head is the list that is so much shorter.
    head = listed(profile, history, None, attributes, withheld, k - places)
    assert shown[: len(head.items)] == [item.item_id for item in head.items]
    assert ranking.drawn is not None
    propensities = ranking.drawn.propensities
    assert len(propensities) == len(shown)
    assert propensities[: len(head.items)] == [1.0] * len(head.items)
    assert all(0 < p <= 1 for p in propensities)
    # What is drawn is as short as it must be: nothing else is allowed.
    allowed = sum(asked.allowed(str(i)) for i in range(1, ITEMS + 1))
    if profile.max_per_category is None:
        assert len(shown) == min(k, allowed)
    again = listed(explores, history, seed, attributes, withheld, k)
    assert again == ranking


@pytest.mark.parametrize("history", [["3", "9"], ["unknown"]], ids=["model", "popular"])
def test_items_are_shown_as_often_as_their_propensities_say(history: list[str]) -> None:
    """Chi-square over 1,500 seeds, each drawn place on its own."""
    exploration = Exploration(slots=2, new_slots=1, candidates=10, new_below=12, temperature=2.0)
    profile = Profile(excluded_categories=["b"], exploration=exploration)
    counts: list[Counter[str]] = [Counter(), Counter(), Counter()]
    said: list[dict[str, float]] = [{}, {}, {}]
    lists = 1500
    for number in range(lists):
        ranking = listed(profile, history, seed_of("ann", str(number)))
        assert ranking.drawn is not None
        drawn = zip(ranking.items[7:], ranking.drawn.propensities[7:], strict=True)
        for place, (item, propensity) in enumerate(drawn):
            counts[place][item.item_id] += 1
            assert said[place].setdefault(item.item_id, propensity) == propensity
    assert not {*said[0]} & {*said[1]}, "no other place draws it"
    users = dict(zip(map(str, range(1, ITEMS + 1)), checkpoint(ITEMS).popularity, strict=True))
    assert all(users[item] < 12 for item in said[2])
    assert all(users[item] >= 12 for item in {*said[0], *said[1]})
    for place in range(3):
        assert math.isclose(sum(said[place].values()), 1, rel_tol=1e-5)
        expected = {item: lists * p for item, p in said[place].items()}
        statistic = sum((counts[place][i] - e) ** 2 / e for i, e in expected.items())
        # Mean n - 1, deviation sqrt(2 (n - 1)): five of them are never met by chance.
        freedom = len(expected) - 1
        assert statistic < freedom + 5 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("epsilon", [0, 0.25])
def test_temperature_1_draws_by_probability_times_boosts(epsilon: float) -> None:
    """But for a share of epsilon, which is drawn with equal probabilities."""
    boosts = {"boosts": {"items": {"20": 3.0}}}
    explores = {"candidates": 5, "epsilon": epsilon}
    profile = Profile.model_validate({**boosts, "exploration": explores})
    shown: dict[str, tuple[float, float]] = {}
    for number in range(300):
        ranking = listed(profile, ["3"], number)
        assert ranking.drawn is not None
        item, propensity = ranking.items[-1], ranking.drawn.propensities[-1]
        boost = 3.0 if item.item_id == "20" else 1.0
        shown[item.item_id] = item.score * boost, propensity
    total = sum(score for score, _ in shown.values())
    assert len(shown) == 5
    for score, propensity in shown.values():
        expected = (1 - epsilon) * score / total + epsilon / 5
        assert math.isclose(propensity, expected, rel_tol=1e-4)


def drawn_from(head: list[int], new: list[int]) -> list[set[int]]:
    """For each of four places, what 300 seeds draw from twelve equal items, with propensities."""
    keys = torch.zeros(1, 12).log_softmax(1)
    exploration = Exploration(slots=2, new_slots=2, candidates=50)
    found: list[set[int]] = [set() for _ in range(4)]
    for seed in range(300):
        (drawn,) = draw(keys.clone(), [head], exploration, [4], [seed], np.array(new, np.int64))
        for place, (column, _) in zip(found, drawn, strict=False):
            place.add(column)
    (drawn,) = draw(keys.clone(), [head], exploration, [4], [1], np.array(new, np.int64))
    assert [p for _, p in drawn] == pytest.approx([1 / len(place) for place in found if place])
    return found


def test_places_go_to_the_other_kind_where_one_has_too_few_items() -> None:
    head = list(range(8))
    # One item is left that is not new, so three places are for new ones.
    assert drawn_from(head, [9, 10, 11]) == [{8}, {9}, {10}, {11}]
    assert drawn_from([*head, 9, 10, 11], [9, 10, 11]) == [{8}, set(), set(), set()]
    assert drawn_from([], []) == [{0, 4, 8}, {1, 5, 9}, {2, 6, 10}, {3, 7, 11}]


def test_lists_of_a_batch_draw_what_they_would_alone() -> None:
    """Whatever is left for the others: heads and numbers of places differ."""
    rng = np.random.default_rng(3)
    keys = torch.from_numpy(rng.normal(size=(40, 25)).astype(np.float32))
    keys[torch.from_numpy(rng.random((40, 25)) < 0.75)] = -torch.inf
    keys[0], keys[1, 2:] = -torch.inf, -torch.inf
    heads = [np.flatnonzero(row > -np.inf)[: n % 4].tolist() for n, row in enumerate(keys.numpy())]
    places, seeds, new = [1 + n % 4 for n in range(40)], list(range(40)), np.arange(20, 25)
    for candidates in (6, 30):
        exploration = Exploration(
            slots=2, new_slots=2, candidates=candidates, temperature=2, epsilon=0.3
        )
        together = draw(keys.clone(), heads, exploration, places, seeds, new)
        for n, drawn in enumerate(together):
            (alone,) = draw(
                keys[n : n + 1].clone(), [heads[n]], exploration, [places[n]], [seeds[n]], new
            )
            assert [column for column, _ in alone] == [column for column, _ in drawn]
            assert [p for _, p in alone] == pytest.approx([p for _, p in drawn])
            left = int((keys[n] > -torch.inf).sum()) - len(heads[n])
            assert len(drawn) == min(places[n], left) or candidates < left


def test_a_draw_at_the_very_end_and_of_a_broken_model_is_still_an_item() -> None:
    def drawn(keys: list[float], number: float) -> int:
        # Float32 weights of 1 in 3 sum up to less than 1 or more.
        strata = Strata(
            np.arange(len(keys))[None], np.array([keys], np.float32), np.array([len(keys)])
        )
        (column,), _ = strata.draw(Exploration(), np.array([number]))
        return int(column)

    for length in range(1, 200):
        assert drawn([-1.0] * length, 1 - 2**-53) == length - 1
        assert drawn([-1.0] * length, 0.0) == 0
    assert Strata(
        np.array([[4, 7, 9]]), np.array([[0.0, -1.0, -2000.0]], np.float32), np.array([3])
    ).draw(Exploration(epsilon=0), np.array([1 - 2**-53]))[0] == [7], "never without propensity"
    assert drawn([np.nan, np.nan], 0.3) in (0, 1)


def test_seeds_and_their_numbers_can_be_computed_by_anybody() -> None:
    """docs/exploration.md has these: `printf %s ann:e-1 | b2sum -l 64`."""
    assert f"{seed_of('ann', 'e-1'):016x}" == "88c9ac8394d70faf"
    assert round(uniform(seed_of("ann", "e-1"), 0), 6) == 0.073791
    numbers = [uniform(seed_of("ann", str(i)), i % 3) for i in range(4000)]
    assert 0 <= min(numbers) < 0.01
    assert 0.99 < max(numbers) < 1
    assert abs(np.mean(numbers) - 0.5) < 0.02


@pytest.mark.parametrize("history", [["3"], ["unknown"]], ids=["model", "popular"])
def test_what_the_user_has_bought_is_not_drawn_either(history: list[str]) -> None:
    profile = Profile.model_validate(
        {"exclude_bought_days": 3, "exploration": {"slots": 2, "candidates": 30}}
    )
    bought = [str(i) for i in range(1, 25)]
    made = SCORER.prepare([profile], BASE)(4, False)
    kept_out = KeptOut.of(KeptOutItems(seen=[], bought=bought), SCORER.vocabulary)
    for seed in range(30):
        (ranking,) = SCORER.recommend([history], [replace(made, kept_out=kept_out)], seeds=[seed])
        assert len(ranking.items) == 4
        assert not {item.item_id for item in ranking.items} & {*bought}


@pytest.mark.parametrize("history", [["3"], ["unknown"]], ids=["model", "popular"])
def test_where_nothing_is_allowed_nothing_is_drawn(history: list[str]) -> None:
    explores = {"categories": ["none has it"], "exploration": {"slots": 2, "new_slots": 1}}
    ranking = listed(Profile.model_validate(explores), history, 5)
    assert ranking.items == []
    assert ranking.shortened_by == {"categories": ITEMS}
    assert ranking.drawn is not None
    assert ranking.drawn.propensities == []


def test_without_seeds_the_best_items_take_all_places() -> None:
    profile = Profile(exploration=Exploration(slots=3))
    assert listed(profile, ["3"], None) == listed(Profile(), ["3"], None)


def test_a_profile_that_does_not_explore_has_the_digest_that_it_had() -> None:
    assert Profile(max_price=3).content == '{"max_price":3.0}'
    assert Profile(exploration=Exploration()).digest != Profile().digest


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ({"slots": 0}, "slots and new_slots are both 0"),
        ({"slots": 3, "candidates": 2}, "2 candidates are too few for 3 places"),
        ({"temperature": 0}, "greater than or equal to 0.1"),
        ({"share": 0.2}, "Extra inputs"),
    ],
)
def test_an_exploration_that_cannot_be_is_refused(part: dict[str, object], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        Profile.model_validate({"exploration": part})


def test_a_list_must_have_room_for_pins_and_for_a_place_that_is_not_drawn() -> None:
    pinned = Profile.model_validate(
        {"pins": [{"position": 9, "item_id": "1"}], "exploration": {"slots": 2}}
    )
    with pytest.raises(ValueError, match="pinned to position 9, and the last 2 of 10 are drawn"):
        pinned.check_length(10)
    pinned.check_length(11)
    with pytest.raises(ValueError, match="10 places are drawn of a list of 10"):
        Profile.model_validate({"exploration": {"slots": 10}}).check_length(10)


def test_attributes_of_nothing_are_no_trouble() -> None:
    profile = Profile(max_per_category=1, exploration=Exploration())
    assert len(listed(profile, ["3"], 1, NOTHING_KNOWN).items) == 10
