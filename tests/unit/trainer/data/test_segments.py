from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextclick.shared.model import Vocabulary
from nextclick.shared.windows import HISTORY_LENGTH
from nextclick.trainer.data import Sessions, Split, click_log
from nextclick.trainer.data import sessions_of as cut_sessions
from nextclick.trainer.data.segments import batches, cut_segments, resample_by_recency
from tests.unit.shared.model.test_neighbours import sessions_of


def numbered(lengths: list[int]) -> Sessions:
    """Every click on an item of its own: its row is its place in the log plus one."""
    ends = np.cumsum([0, *lengths])
    return sessions_of([list(range(a + 1, b + 1)) for a, b in itertools.pairwise(ends)])


@given(
    lengths=st.lists(st.integers(1, 45), max_size=8),
    stride=st.integers(1, HISTORY_LENGTH),
    seed=st.integers(0, 9),
)
def test_every_click_with_one_before_it_is_predicted_once_from_its_own_session(
    lengths: list[int], stride: int, seed: int
) -> None:
    sessions = numbered(lengths)
    segments = cut_segments(sessions, stride, np.random.default_rng(seed))
    seen: Counter[int] = Counter()
    for row, trained, length in zip(segments.rows, segments.trained, segments.lengths, strict=True):
        clicks = row[row > 0]
        assert len(clicks) == length + 1 <= HISTORY_LENGTH + 1
        assert (np.diff(clicks) == 1).all()
        assert len(set(sessions.starts[clicks - 1])) == 1
        assert (row[: HISTORY_LENGTH - length] == 0).all()
        seen.update(clicks[-trained:].tolist())
        place = clicks[-trained] - 1 - sessions.starts[clicks[0] - 1]
        # A click deep in its session is predicted from a nearly full window.
        assert length - trained + 1 >= min(place, HISTORY_LENGTH - stride + 1)
    with_one_before = [i + 1 for i, start in enumerate(sessions.starts) if i > start]
    assert seen == Counter(with_one_before)
    assert sessions.targets == len(with_one_before)


@given(lengths=st.lists(st.integers(1, 30), max_size=5), stride=st.integers(1, HISTORY_LENGTH))
def test_weights_stay_with_their_clicks(lengths: list[int], stride: int) -> None:
    sessions = numbered(lengths)
    weights = 0.5 + sessions.rows.astype(np.float32)
    segments = cut_segments(replace(sessions, weights=weights), stride, np.random.default_rng(0))
    assert segments.weights is not None
    expected = np.where(segments.rows > 0, 0.5 + segments.rows, 0)
    assert np.array_equal(segments.weights, expected)
    again = resample_by_recency(segments, np.random.default_rng(0))
    assert again.weights is not None
    assert np.array_equal(again.weights, np.where(again.rows > 0, 0.5 + again.rows, 0))


def test_long_sessions_are_cut_elsewhere_each_time() -> None:
    sessions = numbered([40])
    rng = np.random.default_rng(0)
    ends = {tuple(cut_segments(sessions, 5, rng).rows[:, -1]) for _ in range(30)}
    assert len(ends) == 5


def test_sessions_are_those_of_the_chosen_splits_on_known_items() -> None:
    clicks = [("a", item, at) for item, at in zip("vwxyz", (0, 1, 2, 100, 101), strict=True)]
    frame = pd.DataFrame(clicks, columns=["user_id", "item_id", "timestamp"])
    log = click_log(frame, gap_ms=10, validation=0.2, test=0.2)
    vocabulary = Vocabulary(["v", "x", "y", "z"])
    train = cut_sessions(log, vocabulary, (Split.TRAIN,))
    assert train.rows.tolist() == [1, 2]  # w is unknown; y is validation and z is the test
    assert train.starts.tolist() == [0, 0]
    both = cut_sessions(log, vocabulary)
    assert both.rows.tolist() == [1, 2, 3]
    assert both.starts.tolist() == [0, 0, 2]
    assert cut_sessions(log, vocabulary, ()).targets == 0


@given(lengths=st.lists(st.integers(1, 30), max_size=40), size=st.integers(1, 50))
def test_batches_hold_every_segment_once_and_alike_in_size(lengths: list[int], size: int) -> None:
    segments = cut_segments(numbered(lengths), 3, np.random.default_rng(0))
    parts = batches(segments, size, np.random.default_rng(1))
    together = np.concatenate(parts) if parts else np.zeros(0, np.int64)
    assert sorted(together.tolist()) == list(range(len(segments)))
    for part in parts:
        assert segments.trained[part].sum() <= 2 * size + 2 * HISTORY_LENGTH


def test_batches_need_little_padding_and_change_from_epoch_to_epoch() -> None:
    rng = np.random.default_rng(0)
    segments = cut_segments(numbered(rng.integers(2, 12, 2000).tolist()), 3, rng)
    parts = batches(segments, 256, rng)
    wasted = [1 - segments.lengths[p].sum() / (len(p) * segments.lengths[p].max()) for p in parts]
    assert np.mean(wasted) < 0.1
    again = batches(segments, 256, rng)
    assert {tuple(sorted(p)) for p in parts} != {tuple(sorted(p)) for p in again}


def test_late_segments_are_drawn_three_times_as_often_as_early_ones() -> None:
    segments = cut_segments(numbered([2] * 1000), 3, np.random.default_rng(0))
    rng = np.random.default_rng(1)
    drawn = [resample_by_recency(segments, rng) for _ in range(20)]
    assert {len(part) for part in drawn} == {1000}
    last = np.concatenate([part.rows[:, -1] for part in drawn])
    early, late = (last <= 400).sum(), (last > 1600).sum()
    assert late / early == pytest.approx(np.exp(1.1 * 0.8), rel=0.02)
    for part in drawn:
        assert np.bincount(part.rows[:, -1])[2::2].max() <= 2
        assert (np.diff(part.rows[:, -1]) >= 0).all()


def test_nothing_to_learn_from_is_nothing() -> None:
    empty = numbered([])
    segments = cut_segments(empty, 3, np.random.default_rng(0))
    assert segments.rows.shape == (0, HISTORY_LENGTH + 1)
    assert batches(segments, 10, np.random.default_rng(0)) == []
    assert len(resample_by_recency(segments, np.random.default_rng(0))) == 0
    assert cut_segments(numbered([1, 1]), 3, np.random.default_rng(0)).rows.shape[0] == 0


@pytest.mark.parametrize("stride", [0, HISTORY_LENGTH + 1])
def test_a_stride_that_would_lose_clicks_is_refused(stride: int) -> None:
    with pytest.raises(ValueError, match="stride"):
        cut_segments(numbered([5]), stride, np.random.default_rng(0))


@pytest.mark.parametrize("stride", [1, 3, 10])
def test_a_session_of_eleven_is_one_segment(stride: int) -> None:
    segments = cut_segments(numbered([11]), stride, np.random.default_rng(0))
    assert segments.rows.tolist() == [list(range(1, 12))]
    assert segments.trained.tolist() == [10]
