from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextclick.services.simulator.world import World
from nextclick.shared.event_types import weights_of
from nextclick.shared.model import Vocabulary
from nextclick.shared.windows import HISTORY_LENGTH, starts_new_session
from nextclick.trainer.data import (
    ClickLog,
    Samples,
    Split,
    click_log,
    random_split,
    sample_negatives,
    samples,
    source_samples,
    weighted,
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


def test_clicks_weigh_by_their_types_and_weight_nothing_go() -> None:
    weights = weights_of({"share": 0.5})
    clicks = frame(*[("a", str(i), i) for i in range(5)])
    types = ["click", "Purchase", "impression", "share", "unheard of"]
    made = weighted(clicks.assign(event_type=types), weights)
    assert made["weight"].tolist() == [1, 3, 0.5, 1]
    log = click_log(made, gap_ms=0)
    assert log.weights is not None
    assert log.weights.tolist() == [1, 3, 0.5, 1]
    kept = log.keep(np.array([True, False, True, False])).weights
    assert kept is not None
    assert kept.tolist() == [1, 0.5]
    held_out = click_log(made, 0, 0.0, 1.0)
    assert held_out.types_of_cases(Split.TEST).tolist() == ["purchase", "share", "unheard_of"]
    assert click_log(clicks, 0, 0.0, 1.0).types_of_cases(Split.TEST).tolist() == [""] * 4
    alike = weighted(clicks.assign(event_type="click"), weights)
    assert "weight" not in alike
    assert click_log(alike, gap_ms=0).weights is None


def test_what_is_no_label_stays_in_histories_and_is_no_case() -> None:
    clicks = frame(*[("a", str(i), i) for i in range(5)])
    types = ["view", "view", "purchase", "impression", "view"]
    made = weighted(clicks.assign(event_type=types), {"cart": 5}, {"View": 0, "impression": 9})
    assert made["item_id"].tolist() == ["0", "1", "2", "4"]
    assert made["weight"].tolist() == [0, 0, 3, 0]
    log = click_log(made, 0, 0.0, 1.0)
    assert log.cases(Split.TEST).tolist() == [2]
    assert log.types_of_cases(Split.TEST).tolist() == ["purchase"]
    vocabulary = Vocabulary(log.item_ids)
    assert samples(log, Split.TEST, vocabulary).histories[0, -2:].tolist() == [1, 2]


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


def test_a_log_remembers_the_order_of_the_stream() -> None:
    clicks = [("a", "0", 5), ("b", "1", 3), ("a", "2", 4), ("c", "3", 9), ("b", "4", 1)]
    log = click_log(frame(*clicks), gap_ms=0)
    assert log.order is not None
    assert [int(log.item_ids[i]) for i in log.items] == log.order.tolist() == [0, 2, 1, 4, 3]


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


def test_popularity_counts_users_not_clicks() -> None:
    clicks = [*[("a", "x", i) for i in range(9)], ("a", "y", 9), ("b", "y", 10), ("c", "y", 11)]
    log = click_log(frame(*clicks), 0, 0.0, 0.0)
    assert log.counts(Vocabulary(["x", "y", "new"])).tolist() == [9, 3, 0]
    assert log.users_per_item(Vocabulary(["x", "y", "new"])).tolist() == [1, 3, 0]
    held_out = click_log(frame(*clicks), 0, 0.0, 1.0)
    assert held_out.users_per_item(Vocabulary(["x", "y"])).tolist() == [0, 0]
    empty = click_log(frame(), gap_ms=0)
    assert empty.users_per_item(Vocabulary(["x"])).tolist() == [0]


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


def naive_samples(
    clicks: list[tuple[str, str, int]], log: ClickLog, gap: int, split: Split, known: list[str]
) -> list[tuple[list[int], int]]:
    """All windows and targets, one user and one click at a time."""
    position = 0  # in the log, which is grouped by user
    found = []
    for user in dict.fromkeys(user for user, _, _ in clicks):
        session: list[str] = []
        clock: int | None = None
        for _, item, at in (click for click in clicks if click[0] == user):
            if clock is not None and starts_new_session(clock, at, gap):
                session = []
            clock = at if clock is None else max(clock, at)
            if session and log.split[position] == split:
                history = [known.index(i) + 1 for i in session[-HISTORY_LENGTH:] if i in known]
                target = known.index(item) + 1 if item in known else 0
                if split == Split.TEST or (history and target):
                    found.append(([0] * (HISTORY_LENGTH - len(history)) + history, target))
            session.append(item)
            position += 1
    return found


@given(
    clicks=st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from("pqrst"), st.integers(0, 60)),
        max_size=60,
    ),
    gap=st.sampled_from([0, 5, 30]),
    known=st.lists(st.sampled_from("pqrst"), unique=True),
)
def test_samples_are_those_of_a_naive_loop(
    clicks: list[tuple[str, str, int]], gap: int, known: list[str]
) -> None:
    log = click_log(frame(*clicks), gap, validation=0.2, test=0.2)
    for split in Split:
        got = samples(log, split, Vocabulary(known))
        pairs = list(zip(got.histories.tolist(), got.targets.tolist(), strict=True))
        assert pairs == naive_samples(clicks, log, gap, split, known)
        assert got.labels is None


@given(
    counts=st.lists(st.integers(1, 40), max_size=30),
    validation=st.sampled_from([0.0, 0.1, 0.25]),
    test=st.sampled_from([0.0, 0.1, 0.5]),
)
def test_every_user_keeps_time_and_share(counts: list[int], validation: float, test: float) -> None:
    clicks = [(f"u{user}", "i", i) for user, n in enumerate(counts) for i in range(n)]
    log = click_log(frame(*clicks), 0, validation, test)
    for user, n in enumerate(counts):
        mine = log.split[log.users == user]
        assert (np.diff(mine) >= 0).all()
        assert abs((mine == Split.TEST).sum() - n * test) < 1
        assert abs((mine != Split.TRAIN).sum() - n * (test + validation)) < 1 + 1e-9
    held_out = (log.split == Split.TEST).sum()
    assert abs(held_out - sum(counts) * test) <= 2 + len(counts) * 0.1


def test_a_log_is_grouped_by_user_in_stream_order() -> None:
    clicks = [("b", "1", 5), ("a", "2", 9), ("b", "3", 1), ("a", "2", 7)] + [
        ("c" if i % 2 else "a", str(i), 0) for i in range(40)
    ]
    log = click_log(frame(*clicks), gap_ms=0)
    assert log.user_ids.tolist() == ["b", "a", "c"]
    assert (log.first_timestamp, log.last_timestamp) == (0, 9)
    for number, user in enumerate(log.user_ids):
        mine = log.items[log.users == number]
        expected = [item for who, item, _ in clicks if who == user]
        assert [log.item_ids[i] for i in mine] == expected


def test_an_items_split_is_that_of_its_clicks_and_counts_hold_training_and_validation() -> None:
    log = click_log(frame(*[("a", f"i{9 - i}", i) for i in range(10)]), 0, 0.2, 0.2)
    assert log.ids_in(Split.TRAIN) == ["i9", "i8", "i7", "i6", "i5", "i4"]
    assert log.ids_in(Split.VALIDATION) == ["i3", "i2"]
    assert log.ids_in(Split.TEST) == ["i1", "i0"]
    assert log.counts(Vocabulary(["i0", "i3", "i9", "new"])).tolist() == [0, 1, 1, 0]


def test_ids_appear_in_the_order_in_which_they_were_first_clicked() -> None:
    log = click_log(frame(("a", "x", 0), ("b", "y", 1), ("a", "z", 2), ("b", "x", 3)), 0, 0.0, 0.0)
    assert log.ids_in(Split.TRAIN) == ["x", "z", "y"]  # a's clicks come first
    assert click_log(frame(("a", "z", 0), ("b", "y", 1)), 0, 0, 0).ids_in(Split.TRAIN) == ["z", "y"]


def test_with_two_items_the_negative_is_the_other_one() -> None:
    targets = np.array([1, 2, 2, 1])
    negatives = sample_negatives(targets, 3, 2, np.random.default_rng(0))
    assert (negatives == 3 - targets[:, None]).all()


def test_the_sources_negatives_are_uniform_and_include_the_target(source_log: ClickLog) -> None:
    vocabulary = Vocabulary([str(i) for i in range(1, 51)])
    table = source_samples(source_log, vocabulary, np.random.default_rng(0))
    assert table.labels is not None
    negatives = table.targets[table.labels == 0]
    counts = np.bincount(negatives, minlength=51)[1:]
    expected = len(negatives) / 50
    assert ((counts - expected) ** 2 / expected).sum() < 100  # 49 degrees: p < 0.00003
    assert 0.4 < table.labels[:5000].mean() < 0.6  # shuffled


def test_a_random_split_loses_and_doubles_nothing() -> None:
    table = Samples(np.arange(70).reshape(7, 10), np.arange(7), np.arange(7.0))
    train, validation = random_split(table, np.random.default_rng(0))
    assert (len(train), len(validation)) == (5, 2)
    assert sorted([*train.targets, *validation.targets]) == list(range(7))
    for part in (train, validation):
        assert part.labels is not None
        assert part.labels.tolist() == part.targets.tolist()
        assert (part.histories[:, 0] == 10 * part.targets).all()


@given(
    st.lists(st.integers(0, 15), min_size=1, max_size=120),
    st.lists(st.integers(0, 25), max_size=80),
    st.integers(0, 60),
)
def test_a_stable_split_never_holds_out_what_an_earlier_log_trained_on(
    before: list[int], after: list[int], left: int
) -> None:
    """Users and clicks come, and the oldest clicks leave the window."""
    stream = pd.DataFrame({"user_id": [f"u{user}" for user in before + after]})
    stream = stream.assign(item_id="i", timestamp=np.arange(len(stream)))

    def splits(frame: pd.DataFrame) -> dict[int, int]:
        log = click_log(frame, gap_ms=0, stable=True)
        assert log.order is not None
        return dict(zip(frame["timestamp"].to_numpy()[log.order], log.split, strict=True))

    earlier, later = splits(stream[: len(before)]), splits(stream[left:])
    for click in earlier.keys() & later.keys():
        assert later[click] <= earlier[click]  # a test click may become training, not the reverse


def test_a_stable_split_holds_out_the_same_shares() -> None:
    users = np.random.default_rng(0).integers(0, 3000, 10_000)
    clicks = frame(*[(f"u{user}", "i", i) for i, user in enumerate(users)])
    log = click_log(clicks, gap_ms=0, stable=True)
    for split, share in ((Split.TRAIN, 0.8), (Split.VALIDATION, 0.1), (Split.TEST, 0.1)):
        assert abs((log.split == split).mean() - share) < 0.02
