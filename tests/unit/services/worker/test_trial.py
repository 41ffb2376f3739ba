from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextclick.services.worker.trial import BLOCK, SLOW_FOR_SECONDS, Trial, Verdict, z_of_drop
from nextclick.services.worker.version_stats import (
    LEAST_JUDGED,
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
    old: float, new: float, seed: int, clicks: int = CLICKS, alike: float = 0.0
) -> tuple[str | None, int]:
    """Two versions with these hit rates; the reason, and after how many judged clicks it came.

    alike: by how much the rate of a user, who has five clicks of a version, may differ from it.
    """
    rng = random.Random(seed)
    users = clicks // 5
    bias = [rng.choice([-alike, alike]) for _ in range(users)]
    before, after = VersionStats("old", clicks), VersionStats("new", clicks)
    for i in range(clicks):
        before.judge(f"old-{i % users}", rng.random() < old + bias[i % users])
    rng.shuffle(bias)
    watch = Trial(after, before, clicks, clock=lambda: 0.0)
    while not watch.over:
        user = after.judged % users
        after.judge(f"new-{user}", rng.random() < new + bias[user])
        verdict = watch.scored(1, 0.001)
        if verdict is not None:
            return verdict.reason, after.judged
    return None, after.judged


@pytest.mark.parametrize(
    ("swaps", "false_alarms"), [(500, 1), pytest.param(2000, 2, marks=pytest.mark.long)]
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
    alarms = [watched(0.5, 0.5, seed, alike=0.3)[0] for seed in range(swaps)]
    assert sum(alarm is not None for alarm in alarms) <= false_alarms


def test_better_models_are_left_alone() -> None:
    assert {watched(0.5, 0.6, seed)[0] for seed in range(50)} == {None}


@pytest.mark.parametrize(("old", "new"), [(0.9, 0.8), (0.5, 0.4), (0.2, 0.1)])
def test_a_hit_rate_lower_by_a_tenth_is_found(old: float, new: float) -> None:
    found = [watched(old, new, seed) for seed in range(200)]
    assert sum(reason == "worse" for reason, _ in found) >= 198
    assert np.median([after for _, after in found]) <= CLICKS / 2


def test_a_useless_model_is_found_at_the_first_look() -> None:
    assert watched(0.5, 0.05, seed=1) == ("worse", CLICKS // 8)


@pytest.mark.parametrize(("old", "new"), [(LEAST_JUDGED - 1, CLICKS), (0, CLICKS)])
def test_few_judged_lists_are_no_ground_for_a_verdict(old: int, new: int) -> None:
    after = VersionStats("new", CLICKS)
    watch = Trial(after, judged(old, old), CLICKS)
    for _ in range(new):
        after.judge(f"u{after.judged}", False)
        assert watch.scored(1, 0.001) is None


@given(st.integers(0, 500), st.integers(0, 500), st.integers(0, 500), st.integers(0, 500))
def test_z_is_a_number_that_is_positive_for_a_drop(a: int, b: int, c: int, d: int) -> None:
    old, new = HitRate(min(a, b), max(a, b)), HitRate(min(c, d), max(c, d))
    z = z_of_drop(old, new)
    assert math.isfinite(z)
    assert z == pytest.approx(-z_of_drop(new, old))
    if old.judged and new.judged and old.hits / old.judged > new.hits / new.judged:
        assert z > 0


def test_few_users_are_no_ground_for_a_verdict() -> None:
    after = VersionStats("new", CLICKS)
    watch = Trial(after, judged(CLICKS, CLICKS), CLICKS)
    for i in range(CLICKS):
        after.judge(f"u{i % 19}", False)
        assert watch.scored(1, 0.001) is None


def test_a_look_that_comes_too_early_is_put_off() -> None:
    """The first 400 clicks are of few users, as when partitions are read one after the other."""
    after = VersionStats("new", CLICKS)
    watch = Trial(after, judged(CLICKS, CLICKS), CLICKS)
    verdicts = []
    for i in range(600):
        after.judge(f"u{i % 10 if i < 400 else i}", False)
        verdicts.append(watch.scored(1, 0.001))
    (found,) = [v for v in verdicts if v is not None][:1]
    assert found.reason == "worse"
    assert verdicts.index(found) == 499


def test_users_whose_clicks_are_alike_are_more_noise() -> None:
    alone = [(1, 1)] * 50 + [(0, 1)] * 50
    alike = [(10, 10)] * 5 + [(0, 10)] * 5
    new = HitRate(30, 100, tuple([(1, 1)] * 30 + [(0, 1)] * 70))
    z = [z_of_drop(HitRate(50, 100, tuple(users)), new) for users in (alone, alike)]
    assert 0 < z[1] < 0.5 * z[0]


def test_z_is_that_of_the_textbook() -> None:
    assert z_of_drop(HitRate(60, 100), HitRate(40, 100)) == pytest.approx(2.8284, abs=1e-4)


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 20))
def test_the_newest_lists_count(hits: list[bool], kept: int) -> None:
    record = VersionStats("v", kept)
    for hit in hits:
        record.judge("u", hit)
    share = record.hit_rate()
    assert (share.hits, share.judged) == (sum(hits[-kept:]), len(hits[-kept:]))
    assert share.users == (((share.hits, share.judged),) if hits else ())
    assert record.judged == len(hits)
    assert record.take_new() == HitRate(sum(hits), len(hits))
    assert record.take_new() == HitRate(0, 0)
    record.retire()
    record.judge("u", True)
    assert record.hit_rate().judged == 1


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
