"""Forty bots beside 100 honest clicks a second change none of the guard's verdicts."""

from __future__ import annotations

import random
from itertools import chain

import pytest

from nextclick.services.simulator.missions import MissionWorld
from nextclick.services.worker.guard import Guard
from nextclick.shared.model import Ranking
from nextclick.shared.registry import ServedModel
from nextclick.shared.schemas import Click, ScoredItem

RATE, BOTS = 100, 40
HONEST = 0.6
"""HR@10 of honest users with the old version."""


class Listing:
    """Recommends nine items and its version."""

    def __init__(self, version: str) -> None:
        self._ranking = Ranking(
            [ScoredItem(version, 0.5), *(ScoredItem(f"other-{i}", 0.01) for i in range(9))],
            None,
        )

    def recommend(
        self, histories: list[list[str]], withheld: frozenset[str] = frozenset()
    ) -> list[Ranking]:
        return [self._ranking] * len(histories)


class Shop:
    """The users of the missions world at RATE clicks a second, and bots who do as they like."""

    def __init__(self, honest: dict[str, float], liked_by_bots: str, bot_rate: float) -> None:
        """honest: version → its hit rate. liked_by_bots: the version whose lists they click.

        bot_rate: clicks a second of each bot.
        """
        traffic = MissionWorld().traffic(seed=1)
        self._users = chain.from_iterable(clicks.users.tolist() for clicks in traffic)
        self._honest, self._liked, self._bot_rate = honest, liked_by_bots, bot_rate
        self._random = random.Random(0)
        self._bot, self._bots_due = 0, 0.0
        self.guard = Guard(2000, self._went_back)
        self.rolled_back = False

    def _went_back(self, bad: ServedModel, good: ServedModel, reason: str) -> None:
        self.rolled_back = True
        self.model = good

    def serve(self, version: str, seconds: float, on_trial: bool = False) -> None:
        """Serve by a version, or by the one that the guard went back to."""
        self.model = ServedModel(version, Listing(version), on_trial)  # type: ignore[arg-type]
        for _ in range(int(10 * seconds)):
            now = self.model.version
            clicks = [
                self._click(f"u{next(self._users)}", now, self._random.random() < self._honest[now])
                for _ in range(RATE // 10)
            ]
            self._bots_due += BOTS * self._bot_rate / 10
            while self._bots_due >= 1:
                clicks.append(self._click(f"bot{self._bot % BOTS}", now, now == self._liked))
                self._bot += 1
                self._bots_due -= 1
            self._random.shuffle(clicks)
            self.guard.recommend(self.model, [(click, ["x"]) for click in clicks])
            if self.rolled_back:
                return

    def _click(self, user: str, version: str, hit: bool) -> Click:
        item = version if hit else "no such item"
        return Click.model_construct(event_id="e", user_id=user, item_id=item, timestamp=0)


@pytest.mark.parametrize("bot_rate", [0.5, 1.0, 10.0])
@pytest.mark.parametrize("served_seconds", [10, 60])
def test_bots_do_not_veto_a_good_model(bot_rate: float, served_seconds: int) -> None:
    shop = Shop({"old": HONEST, "new": HONEST}, liked_by_bots="old", bot_rate=bot_rate)
    shop.serve("old", served_seconds)
    shop.serve("new", 120, on_trial=True)
    assert not shop.rolled_back


@pytest.mark.parametrize("bot_rate", [0.0, 1.0, 10.0])
def test_bots_do_not_save_a_bad_model(bot_rate: float) -> None:
    shop = Shop({"old": HONEST, "new": 0.3}, liked_by_bots="new", bot_rate=bot_rate)
    shop.serve("old", 60)
    shop.serve("new", 60, on_trial=True)
    assert shop.rolled_back
