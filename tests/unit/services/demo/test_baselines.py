"""What the demo measures the model against."""

from __future__ import annotations

import io
import signal
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from nextclick.services.demo.baselines import ceiling
from nextclick.services.demo.demo import BOOTSTRAP_INTERACTIONS, _interrupts_as_event, _show
from nextclick.services.simulator import worlds
from nextclick.services.simulator.shop import Shop
from nextclick.shared.errors import ConfigurationError
from nextclick.shared.schemas import Recommendation
from nextclick.shared.windows import HISTORY_LENGTH


def answer(history: list[str]) -> Recommendation:
    return Recommendation(
        event_id="1",
        user_id="u",
        items=[],
        model_version="v",
        history=history,
        click_timestamp=100,
        scored_at=101,
    )


def best_lists(shop: Shop, histories: list[list[str]]) -> list[set[str]]:
    lists: list[set[str]] = ceiling(shop)([answer(h) for h in histories])
    return lists


def test_the_ceiling_recommends_what_the_mission_calls_for() -> None:
    openers = ["Puppy Food", "Food Bowl", "Water Dispenser"]
    station, growing_up = best_lists(worlds.world("missions", 42), [openers, openers[::-1]])
    assert len(station) == len(growing_up) == 10
    assert {"Puppy Training Treats", "Placemat for Food Bowls"} <= station
    assert {"Adult Dog Kibble", "Dental Chews"} <= growing_up
    assert not {"Adult Dog Kibble", "Dental Chews"} <= station


def test_the_ceiling_of_the_sources_world_is_a_category() -> None:
    shop = worlds.world("source", 42)
    fish = [shop.item_ids[row] for row in np.flatnonzero(shop.category == 0)]
    assert best_lists(shop, [fish]) == [set(fish)]


@pytest.mark.parametrize("name", ["missions", "source"])
def test_live_clicks_are_hit_as_often_as_the_ceiling_says(name: str) -> None:
    """The lists are those of the most probable items, at the probability they claim."""
    shop = worlds.world(name, 42)
    clicks = next(shop.traffic(seed=5))
    histories: dict[int, list[str]] = {}
    cases: list[tuple[list[str], str]] = []
    pairs = zip(clicks.users[:5_000].tolist(), clicks.items[:5_000].tolist(), strict=True)
    for user, item in pairs:
        before = histories.setdefault(user, [])
        if before:
            cases.append((before[-HISTORY_LENGTH:], str(item)))
        before.append(str(item))
    lists = best_lists(shop, [history for history, _ in cases])
    hits = np.mean([item in items for (_, item), items in zip(cases, lists, strict=True)])

    padded = np.zeros((len(cases), HISTORY_LENGTH), np.int64)
    for row, (history, _) in zip(padded, cases, strict=True):
        row[-len(history) :] = [shop.item_ids.index(item) + 1 for item in history]
    law = np.sort(shop.next_click_given_history(padded), axis=1)
    assert hits == pytest.approx(
        law[:, -10:].sum(axis=1).mean(), abs=4 * np.sqrt(0.25 / len(cases))
    )


def test_the_past_is_the_sources_log_or_a_mission_log_of_like_length() -> None:
    for name, count in (("missions", 40_000), ("source", 42_027)):
        historic_clicks = worlds.historic_clicks(
            worlds.world(name, 42), BOOTSTRAP_INTERACTIONS[name], seed=42
        )
        assert len(historic_clicks.users) == count


def test_an_unknown_world_lists_the_known() -> None:
    with pytest.raises(ConfigurationError, match="missions or source"):
        worlds.world("flat", 42)


class Interrupted:
    """Services and watcher in one; the person presses Ctrl-C in the middle of a digest."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number
        self.digested = 0

    def check(self) -> None:
        pass

    def ended(self, name: str) -> bool:
        return False

    def update(self) -> None:
        signal.raise_signal(self.number)
        self.digested += 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_waits_for_the_update_to_end(number: signal.Signals) -> None:
    both: Any = Interrupted(number)
    facts: Any = None  # not asked: it ends before the first line is due
    before = signal.getsignal(number)
    with _interrupts_as_event() as stop:
        _show(both, both, facts, Console(file=io.StringIO()), stop)
    assert both.digested == 1
    assert signal.getsignal(number) is before
