"""The shop whose shoppers react to lists, and the benches that use it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from nextclick.bench import exploration, off_policy
from nextclick.bench.reactive_shop import Reaction, Shop, click_frame
from nextclick.shared.profiles import Profile


@pytest.mark.parametrize("reaction", get_args(Reaction))
def test_a_list_is_worth_as_many_clicks_as_the_shop_says(reaction: Reaction) -> None:
    shop, visits, last = Shop(40, reaction, seed=3), 20_000, 5
    for shown in (np.argsort(-shop.wanted[last])[:5], np.arange(30, 40)):
        clicked = shop.clicks(np.full(visits, last), [shown] * visits, seed=1)
        worth = shop.worth(last, shown)
        share = np.isin(clicked, shown).mean()
        assert abs(share - worth) < 4 * math.sqrt(worth * (1 - worth) / visits)
        assert 0 < np.mean(clicked == -1) < 1, "some leave"


def test_in_a_shop_without_an_item_nobody_wants_it() -> None:
    shop = Shop(40, seed=3)
    without = shop.without(np.array([4, 7]))
    clicked = without.organic_clicks(500, 4, seed=1)["item_id"]
    assert not clicked.isin(["5", "8"]).any()
    assert shop.organic_clicks(500, 4, seed=1)["item_id"].isin(["5", "8"]).any()
    assert without.wanted.sum(axis=1) == pytest.approx(np.ones(40))


def test_sessions_become_clicks_in_order_of_arrival() -> None:
    frame = click_frame(np.array([[0, 1, -1], [2, 0, 1]]), ["a", "b", "c"], "u", 5)
    assert frame["timestamp"].is_monotonic_increasing
    by_user = frame.groupby("user_id")["item_id"].agg(list).to_dict()
    assert by_user == {"u 0": ["a", "b"], "u 1": ["c", "a", "b"]}


@pytest.mark.long
def test_estimates_are_compared_with_the_truth(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(off_policy, "SESSIONS_OF_MODELS", {"logged": 200, "little data": 60})
    profile = Profile.model_validate({"exploration": {"slots": 2, "candidates": 300}})
    found = off_policy.measure("intent", profile, logs=6, shoppers=150, epochs=2, seed=0)
    assert len(found) == 1 + 3 * 3
    for one in found:
        assert abs(one.mean - one.truth) < 0.2
        assert one.support == pytest.approx(1, abs=0.15)
    best = max(found, key=lambda one: one.truth)
    assert best.model == "best possible"
    off_policy.plot(found, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


@pytest.mark.long
def test_rounds_with_and_without_drawn_places(tmp_path: Path) -> None:
    explores = Profile.model_validate({"exploration": {"slots": 1, "new_slots": 1}})
    found = [
        one
        for name, profile in (("plain", None), ("drawn", explores))
        for one in exploration.measure(name, profile, 1, 120, 0.03, 1, 0)
    ]
    assert [(one.lists, one.number) for one in found] == [
        (name, number) for name in ("plain", "drawn") for number in (0, 1)
    ]
    first, second = found[0], found[2]
    assert first.hr_at_10_new == pytest.approx(second.hr_at_10_new)
    assert first.hr_at_10 == pytest.approx(second.hr_at_10), "the same model"
    exploration.plot(found, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000
