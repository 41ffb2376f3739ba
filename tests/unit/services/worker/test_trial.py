from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextclick.services.worker.trial import (
    BLOCK,
    CROWD,
    SLOW_FOR_SECONDS,
    Trial,
    Verdict,
    z_of_drop,
)
from nextclick.services.worker.version_stats import (
    LEAST_JUDGED,
    LISTS_PER_USER,
    HitRate,
    VersionStats,
    p99,
    size_class,
)

CLICKS = 2000


def judged(hits: int, of: int, kept: int = CLICKS) -> VersionStats:
    record = VersionStats("old", kept)
    for i in range(of):
        record.judge(f"u{i}", i < hits)
    return record


def watched(
    old: float, new: float, seed: int, lists: int = 1, alike: float = 0.0
) -> tuple[str | None, int]:
    """Two versions with these hit rates; the reason, and after how many judged clicks it came.

    lists: judged clicks of each user and version. alike: by how much the rate of a user may differ.
    """
    rng = random.Random(seed)
    users = CLICKS // lists
    bias = [rng.choice([-alike, alike]) for _ in range(users)]
    before, after = VersionStats("old", CLICKS), VersionStats("new", CLICKS)
    for i in range(CLICKS):
        before.judge(f"old-{i % users}", rng.random() < old + bias[i % users])
    rng.shuffle(bias)
    watch = Trial(after, before, CLICKS, clock=lambda: 0.0)
    clicks = 0
    while not watch.over:
        user = clicks % users
        clicks += 1
        after.judge(f"new-{user}", rng.random() < new + bias[user])
        verdict = watch.scored(1, 0.001)
        if verdict is not None:
            return verdict.reason, clicks
    return None, clicks


@pytest.mark.parametrize(
    ("swaps", "false_alarms"), [(300, 1), pytest.param(2000, 2, marks=pytest.mark.long)]
)
def test_equal_models_are_left_alone(swaps: int, false_alarms: int) -> None:
    """A rate of one in a thousand, measured at length; in short that it is not far above."""
    rates = (0.02, 0.2, 0.5, 0.87)
    alarms = [watched(rates[seed % 4], rates[seed % 4], seed)[0] for seed in range(swaps)]
    assert sum(alarm is not None for alarm in alarms) <= false_alarms


@pytest.mark.parametrize(
    ("swaps", "false_alarms"), [(250, 1), pytest.param(1000, 2, marks=pytest.mark.long)]
)
def test_equal_models_are_left_alone_although_the_clicks_of_a_user_are_alike(
    swaps: int, false_alarms: int
) -> None:
    alarms = [watched(0.5, 0.5, seed, lists=5, alike=0.3)[0] for seed in range(swaps)]
    assert sum(alarm is not None for alarm in alarms) <= false_alarms


def test_better_models_are_left_alone() -> None:
    assert {watched(0.5, 0.6, seed)[0] for seed in range(50)} == {None}


@pytest.mark.parametrize(("old", "new"), [(0.9, 0.8), (0.5, 0.4), (0.2, 0.1)])
def test_a_hit_rate_lower_by_a_tenth_is_found(old: float, new: float) -> None:
    found = [watched(old, new, seed) for seed in range(100)]
    assert sum(reason == "worse" for reason, _ in found) >= 99
    assert np.median([after for _, after in found]) <= CLICKS


def test_a_drop_that_few_users_could_cause_is_none() -> None:
    """Of 400 users 40 may be bots, which is a tenth: a drop by a tenth can be all theirs."""
    assert {watched(0.5, 0.4, seed, lists=5)[0] for seed in range(20)} == {None}
    assert [watched(0.5, 0.2, seed, lists=5)[0] for seed in range(20)].count("worse") >= 19


def test_a_drop_that_is_in_doubt_is_looked_at_again_when_there_are_more_users() -> None:
    """A quarter of 200 users, who click ten times, is lost; then of 2,000 others."""
    after = VersionStats("new", CLICKS)
    watch = Trial(after, judged(CLICKS, CLICKS), CLICKS)
    for i in range(2 * CLICKS):
        assert not watch.over
        after.judge(f"u{i % 200 if i < CLICKS else i}", i % 4 > 0)
        if verdict := watch.scored(1, 0.001):
            break
    assert verdict is not None
    assert i == 2 * CLICKS - 1


def test_a_useless_model_is_found_at_the_first_look() -> None:
    assert watched(0.9, 0.05, seed=1) == ("worse", CLICKS // 8)


@pytest.mark.parametrize(("old", "new"), [(LEAST_JUDGED - 1, CLICKS), (0, CLICKS)])
def test_few_judged_lists_are_no_ground_for_a_verdict(old: int, new: int) -> None:
    after = VersionStats("new", CLICKS)
    watch = Trial(after, judged(old, old), CLICKS)
    for _ in range(new):
        after.judge(f"u{after.judged}", False)
        assert watch.scored(1, 0.001) is None


SOME_USERS = st.lists(
    st.integers(1, LISTS_PER_USER).flatmap(
        lambda judged: st.tuples(st.integers(0, judged), st.just(judged))
    ),
    max_size=50,
)


@given(SOME_USERS, SOME_USERS, st.integers(0, 50))
def test_z_is_a_number_that_is_positive_for_a_drop(
    before: list[tuple[int, int]], after: list[tuple[int, int]], crowd: int
) -> None:
    old, new = HitRate(before), HitRate(after)
    z = z_of_drop(old, new)
    assert math.isfinite(z)
    assert z == pytest.approx(-z_of_drop(new, old))
    assert z_of_drop(old, new, crowd) <= z
    if before and after and old.mean > new.mean + 1e-9:
        assert z > 0


@given(SOME_USERS, st.integers(1, CROWD))
def test_a_crowd_alone_is_no_drop(users: list[tuple[int, int]], bots: int) -> None:
    """Users do the same with both versions; bots hit with the old one and miss with the new one."""
    old, new = HitRate([*users, *[(1, 1)] * bots]), HitRate([*users, *[(0, 1)] * bots])
    assert z_of_drop(old, new, bots) == pytest.approx(0, abs=1e-6)


def test_few_users_are_no_ground_for_a_verdict() -> None:
    after = VersionStats("new", CLICKS)
    watch = Trial(after, judged(CLICKS, CLICKS), CLICKS)
    for i in range(CLICKS):
        after.judge(f"u{i % 19}", False)
        assert watch.scored(1, 0.001) is None


def test_a_look_that_comes_too_early_is_put_off() -> None:
    """The old version lacks a judged list until after the first look."""
    before, after = judged(LEAST_JUDGED - 1, LEAST_JUDGED - 1), VersionStats("new", CLICKS)
    watch = Trial(after, before, CLICKS)
    for i in range(600):
        if i == CLICKS // 8:
            before.judge("late", True)
        after.judge(f"u{i}", False)
        if verdict := watch.scored(1, 0.001):
            break
    assert verdict is not None
    assert verdict.reason == "worse"
    assert i == 2 * (CLICKS // 8) - 1


def test_users_whose_clicks_are_alike_are_more_noise() -> None:
    different = [(5, 10)] * 100
    alike = [(10, 10)] * 50 + [(0, 10)] * 50
    new = HitRate([(3, 10)] * 100)
    z = [z_of_drop(HitRate(users), new) for users in (different, alike)]
    assert 0 < z[1] < 0.5 * z[0]


def test_z_is_that_of_the_textbook() -> None:
    old, new = ([(1, 1)] * hits + [(0, 1)] * (100 - hits) for hits in (60, 40))
    assert z_of_drop(HitRate(old), HitRate(new)) == pytest.approx(2.8284, abs=1e-4)


def test_a_user_counts_once_however_often_they_click() -> None:
    busy = HitRate([(10, 10)] * 5 + [(0, 1)] * 5)
    assert busy.mean == 0.5
    record = VersionStats("v", CLICKS)
    for i in range(1000):
        record.judge("bot", True)
        if i < 4:
            record.judge(f"u{i}", False)
    assert record.hit_rate().mean == pytest.approx(0.2)
    assert record.judged == LISTS_PER_USER + 4, "a bot does not hasten the verdict"


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=60), st.integers(1, 3))
def test_the_newest_lists_of_the_last_users_count(lists: list[tuple[int, bool]], kept: int) -> None:
    record = VersionStats("v", kept)
    for user, hit in lists:
        record.judge(f"u{user}", hit)
    assert record.take_new() == (sum(hit for _, hit in lists), len(lists))
    assert record.take_new() == (0, 0)
    last = list(dict.fromkeys(user for user, _ in reversed(lists)))[:kept]
    assert len(record.hit_rate().users) == len(last)
    if len({user for user, _ in lists}) <= kept:
        expected = []
        for user in reversed(last):
            newest = [hit for other, hit in lists if other == user][-LISTS_PER_USER:]
            expected.append((sum(newest), len(newest)))
        assert list(record.hit_rate().users) == expected
    record.retire()
    record.judge("u", True)
    assert record.hit_rate().judged == 0
    assert record.take_new() == (1, 1)


@given(st.integers(1, 5000))
def test_batches_of_one_class_are_about_equally_large(clicks: int) -> None:
    eights = math.ceil(clicks / 8)
    assert size_class(clicks) <= eights < 1.25 * size_class(clicks) + 1e-9


class Timed:
    """A version that takes these seconds, after 500 batches of one that took 1 to 2 ms."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        old = judged(1000, CLICKS)
        for _ in range(500):
            old.scored(8, self.usual())
        self.new = VersionStats("new", CLICKS)
        self.watch = Trial(self.new, old, CLICKS, clock=lambda: self.now)

    def usual(self) -> float:
        return self.rng.uniform(0.001, 0.002)

    def batch(self, seconds: float, every: float = 0.1, clicks: int = 8) -> Verdict | None:
        self.now += every
        self.new.judge(f"u{self.new.judged}", self.rng.random() < 0.5)
        return self.watch.scored(clicks, seconds)

    def until_over(self, slow: float, share: float, every: float = 0.1) -> str | None:
        while not self.watch.over:
            seconds = slow if self.rng.random() < share else self.usual()
            verdict = self.batch(seconds, every)
            if verdict is not None:
                return verdict.reason
        return None


def test_a_slow_model_is_found() -> None:
    assert Timed().until_over(slow=0.05, share=1.0) == "slower"


def test_a_model_that_is_slow_now_and_then_is_found() -> None:
    """A tenth of its batches: its p99 is what they take."""
    found = [Timed(seed).until_over(slow=0.05, share=0.1) for seed in range(20)]
    assert found.count("slower") >= 18


def test_usual_times_are_not_slow() -> None:
    assert {Timed(seed).until_over(slow=0.05, share=0.01) for seed in range(50)} == {None}


def test_some_milliseconds_more_are_not_slow() -> None:
    """Three times as long, but 6 ms: nobody notices."""
    assert Timed().until_over(slow=0.006, share=1.0) is None


def test_a_busy_moment_is_not_a_slow_model() -> None:
    timed = Timed()
    for _ in range(4 * BLOCK):  # many batches, but within less than SLOW_FOR_SECONDS
        assert timed.batch(0.05, every=SLOW_FOR_SECONDS / (5 * BLOCK)) is None
    assert timed.until_over(slow=0.05, share=0.0) is None


def test_a_trial_does_not_end_while_the_model_seems_slow() -> None:
    timed = Timed()
    for _ in range(CLICKS):
        timed.new.judge("u", True)
    fast = 0.001
    reasons = [timed.batch(0.05, every=fast) for _ in range(12_000)]
    (verdict,) = [r for r in reasons if r is not None][:1]
    assert verdict.reason == "slower"


def test_larger_batches_may_take_longer() -> None:
    timed = Timed()
    for _ in range(1000):
        assert timed.batch(0.05, clicks=200) is None, "no batch of that size was timed before"


def test_a_trial_ends_even_if_no_user_returns() -> None:
    watch = Trial(VersionStats("new", CLICKS), judged(1000, CLICKS), CLICKS)
    for _ in range(20 * CLICKS):
        assert not watch.over
        assert watch.scored(1, 0.001) is None
    assert watch.over


def test_p99() -> None:
    assert p99([1.0]) == 1.0
    assert p99([float(i) for i in range(1, 101)]) == 99.0


def test_times_are_kept_in_bounds_and_from_the_whole_life() -> None:
    record = VersionStats("v", 10)
    for i in range(20_000):
        record.scored(8, i / 20_000)
    (kept,) = record._seconds.values()
    assert len(kept) == 500
    assert 0.4 < sum(kept) / 500 < 0.6
