from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from nextclick.services.simulator.missions import MissionWorld
from nextclick.services.simulator.publish import click_frame
from nextclick.trainer.data import LeftOut, bound_contributions
from nextclick.trainer.data.contributions import LEAST_LIMIT, click_limit

MINUTE = 60_000


def frame(*clicks: tuple[str, int]) -> pd.DataFrame:
    """A click per user and timestamp; the item tells which click it was."""
    made = pd.DataFrame(clicks, columns=["user_id", "timestamp"])
    return made.assign(item_id=np.arange(len(clicks)).astype(str))


def kept(log: pd.DataFrame, max_per_minute: int = 0) -> list[int]:
    return bound_contributions(log, max_per_minute)[0]["item_id"].astype(int).tolist()


def test_the_first_clicks_of_each_user_and_minute_count() -> None:
    log = frame(
        ("a", 0), ("a", 1), ("b", 2), ("a", 59_999), ("a", MINUTE), ("b", 61_000), ("a", 62_000),
        ("a", 119_999),
    )  # fmt: skip
    bounded, left_out = bound_contributions(log, 2)
    assert bounded["item_id"].tolist() == ["0", "1", "2", "4", "5", "6"]
    assert bounded.index.tolist() == list(range(6))
    assert left_out == LeftOut(rate=2, users=1, limit=LEAST_LIMIT)
    assert str(left_out).startswith("2 clicks of 1 users do not count: 2 came too fast, 0 are")


def test_without_a_limit_all_clicks_of_a_minute_count() -> None:
    log = frame(*[("a", 0)] * 40)
    bounded, left_out = bound_contributions(log)
    assert bounded is log
    assert left_out == LeftOut(limit=LEAST_LIMIT)


def test_of_a_user_with_far_more_clicks_than_others_the_newest_count() -> None:
    """Twelve users click 60 times, and one 1,000 times."""
    clicks = [(f"u{i % 12}", i) for i in range(720)]
    bot = [("bot", i) for i in range(1000)]
    bounded, left_out = bound_contributions(frame(*bot[:500], *clicks, *bot[500:]))
    assert Counter(bounded["user_id"]) == {**{f"u{i}": 60 for i in range(12)}, "bot": 60}
    of_bot = bounded[bounded["user_id"] == "bot"]
    assert of_bot["timestamp"].tolist() == list(range(940, 1000))
    assert left_out == LeftOut(share=940, users=1, limit=60)


def test_the_limit_is_tukeys_outer_fence_of_users_who_come_back() -> None:
    assert click_limit(np.array([100, 200, 300, 400, 500])) == 400 + 3 * 200
    assert click_limit(np.array([100, 200, 300, 400, 500, *[1] * 1000, 0])) == 400 + 3 * 200
    assert click_limit(np.array([2, 3, 4])) == LEAST_LIMIT
    assert click_limit(np.array([1])) == LEAST_LIMIT
    assert click_limit(np.zeros(0, np.int64)) == LEAST_LIMIT


def test_a_quarter_of_the_users_cannot_raise_the_limit_far() -> None:
    honest = np.full(75, 100) + np.arange(75) % 20
    assert click_limit(np.r_[honest, np.full(24, 10**6)]) <= 2 * click_limit(honest)


def test_the_simulated_shoppers_are_left_alone() -> None:
    """So every seeded figure of the missions world stays as it was."""
    for clicks, rate in ((20_000, 100), (200_000, 1)):
        log = click_frame(MissionWorld().clicks(clicks, seed=1), 1_700_000_000_000, rate, seed=0)
        bounded, left_out = bound_contributions(log, 60)
        assert bounded is log
        assert left_out.users == 0


def test_an_empty_log_is_bounded() -> None:
    bounded, left_out = bound_contributions(frame(), 60)
    assert len(bounded) == 0
    assert left_out == LeftOut(limit=LEAST_LIMIT)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3 * MINUTE)), max_size=80),
    st.integers(1, 5),
)
def test_rates_are_bounded_as_one_by_one(clicks: list[tuple[str, int]], limit: int) -> None:
    seen: Counter[tuple[str, int]] = Counter()
    expected = []
    for i, (user, timestamp) in enumerate(clicks):
        seen[user, timestamp // MINUTE] += 1
        if seen[user, timestamp // MINUTE] <= limit:
            expected.append(i)
    assert kept(frame(*clicks), limit) == expected


def test_two_million_clicks_take_a_moment() -> None:
    rng = np.random.default_rng(0)
    users = np.where(rng.random(2_000_000) < 0.3, 0, rng.integers(0, 200_000, 2_000_000))
    log = pd.DataFrame({"user_id": users, "timestamp": np.sort(rng.integers(0, 10**9, len(users)))})
    began = time.perf_counter()
    _, left_out = bound_contributions(log, 20)
    assert time.perf_counter() - began < 5  # 0.5 s; a busy machine may take longer
    assert left_out.rate > 250_000
