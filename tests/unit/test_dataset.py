from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pandas as pd
import pytest

from services.simulator.world import World
from shared.checkpoint import Vocabulary
from trainer.dataset import (
    ClickLog,
    Split,
    click_log,
    random_split,
    sample_negatives,
    samples,
    source_samples,
)


def frame(*clicks: tuple[str, str, int]) -> pd.DataFrame:
    return pd.DataFrame(clicks, columns=["user_id", "item_id", "timestamp"])


@pytest.fixture(scope="module")
def source_log() -> ClickLog:
    clicks = World().source_clicks(200_000)
    return click_log(
        pd.DataFrame(
            {
                "user_id": clicks.users.astype(str),
                "item_id": clicks.items.astype(str),
                "timestamp": clicks.interactions,
            }
        ),
        gap_ms=0,
    )


def test_each_users_newest_clicks_are_held_out() -> None:
    clicks = [(user, str(i), i) for i in range(20) for user in ("a", "b")]
    log = click_log(frame(*clicks), gap_ms=0, validation=0.1, test=0.1)
    for user in (0, 1):
        split = log.split[log.users == user]
        assert split.tolist() == [Split.TRAIN] * 16 + [Split.VALIDATION] * 2 + [Split.TEST] * 2


def test_users_with_few_clicks_share_the_held_out_clicks_among_them() -> None:
    log = click_log(frame(*[(f"u{u}", str(i), i) for u in range(1000) for i in range(3)]), 0)
    for split, share in ((Split.TRAIN, 0.8), (Split.VALIDATION, 0.1), (Split.TEST, 0.1)):
        assert abs((log.split == split).mean() - share) < 0.01
    for user in range(1000):
        mine = log.split[log.users == user]
        assert (np.diff(mine) >= 0).all()  # never training on what comes after the test


def test_a_log_may_be_empty() -> None:
    empty = click_log(frame(), gap_ms=0)
    assert len(samples(empty, Split.TRAIN, Vocabulary([]))) == 0


def test_histories_reach_back_into_earlier_splits() -> None:
    log = click_log(frame(*[("a", str(i), i) for i in range(10)]), gap_ms=0)
    vocabulary = Vocabulary([str(i) for i in range(10)])
    test = samples(log, Split.TEST, vocabulary)
    assert test.histories.tolist() == [[0, *range(1, 10)]]
    assert test.targets.tolist() == [10]


def test_an_unknown_target_is_a_case_of_the_test_but_not_of_the_training() -> None:
    log = click_log(frame(*[("a", str(i), i) for i in range(10)]), gap_ms=0)
    vocabulary = Vocabulary([str(i) for i in (0, 2, 4, 6)])
    assert samples(log, Split.TEST, vocabulary).targets.tolist() == [0]
    assert samples(log, Split.TRAIN, vocabulary).targets.tolist() == [2, 3, 4]
    assert log.ids_in(Split.TRAIN) == [str(i) for i in range(8)]


def test_popularity_does_not_look_at_the_test() -> None:
    log = click_log(frame(*[("a", "x" if i < 9 else "y", i) for i in range(10)]), gap_ms=0)
    assert log.counts(Vocabulary(["x", "y"])).tolist() == [9, 0]


def test_negatives_are_never_the_target_and_otherwise_uniform() -> None:
    targets = np.tile(np.arange(1, 6), 4000)
    negatives = sample_negatives(targets, 3, 5, np.random.default_rng(0))
    assert not (negatives == targets[:, None]).any()
    assert set(np.unique(negatives)) == {1, 2, 3, 4, 5}
    for target in range(1, 6):
        counts = np.bincount(negatives[targets == target].ravel(), minlength=6)
        others = np.delete(counts[1:], target - 1)
        assert np.abs(others - 3000).max() < 5 * np.sqrt(3000)


def test_the_sources_table_has_its_82054_samples(source_log: ClickLog) -> None:
    vocabulary = Vocabulary([str(i) for i in range(1, 51)])
    table = source_samples(source_log, vocabulary, np.random.default_rng(0))
    assert len(table) == 82_054
    assert table.labels is not None
    assert table.labels.sum() == 41_027


def test_the_sources_random_split_leaks(source_log: ClickLog) -> None:
    """Why it judges nothing here: validation histories have their twin in training."""
    vocabulary = Vocabulary([str(i) for i in range(1, 51)])
    rng = np.random.default_rng(0)
    train, validation = random_split(source_samples(source_log, vocabulary, rng), rng)
    assert (len(train), len(validation)) == (65_643, 16_411)
    seen: dict[tuple[int, ...], Counter[float]] = defaultdict(Counter)
    assert train.labels is not None
    for row, label in zip(train.histories.tolist(), train.labels, strict=True):
        seen[tuple(row)][label] += 1
    with_twin = sum(tuple(row) in seen for row in validation.histories.tolist())
    assert with_twin / len(validation) > 0.75
