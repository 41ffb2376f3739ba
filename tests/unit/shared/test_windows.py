from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextclick.shared.schemas import LATEST_TIMESTAMP
from nextclick.shared.windows import HISTORY_LENGTH, session_starts, starts_new_session, windows


@given(
    rows=st.lists(st.integers(0, 5), max_size=40),
    cuts=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=20),
)
def test_windows_are_the_last_known_items_left_padded(
    rows: list[int], cuts: list[tuple[int, int]]
) -> None:
    n = len(rows)
    ranges = [(min(a, b, n), min(max(a, b), n)) for a, b in cuts]
    got = windows(
        np.array(rows, np.int64),
        np.array([a for a, _ in ranges], np.int64),
        np.array([b for _, b in ranges], np.int64),
    )
    for row, (start, end) in zip(got, ranges, strict=True):
        known = [r for r in rows[start:end][-HISTORY_LENGTH:] if r != 0]
        assert row.tolist() == [0] * (HISTORY_LENGTH - len(known)) + known


@given(
    clicks=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 100)), max_size=60),
    gap=st.sampled_from([0, 1, 10, 50]),
)
def test_vectorised_sessions_are_the_scalar_rule(clicks: list[tuple[int, int]], gap: int) -> None:
    grouped = sorted(clicks, key=lambda c: c[0])  # stable: each user's order is kept
    expected: list[int] = []
    user, clock, start = None, 0, 0
    for i, (who, at) in enumerate(grouped):
        if who != user or starts_new_session(clock, at, gap):
            start = i
        clock = at if who != user else max(clock, at)
        user = who
        expected.append(start)
    got = session_starts(
        np.array([c[0] for c in grouped], np.int64),
        np.array([c[1] for c in grouped], np.int64),
        gap,
    )
    assert got.tolist() == expected


def test_the_gap_itself_does_not_end_a_session() -> None:
    assert not starts_new_session(0, 10, gap_ms=10)
    assert starts_new_session(0, 11, gap_ms=10)
    assert not starts_new_session(0, 10**12, gap_ms=0)
    assert not starts_new_session(10**12, 0, gap_ms=10)


def test_without_windows_or_clicks_there_is_nothing_or_padding() -> None:
    none = np.zeros(0, np.int64)
    assert windows(none, none, none).shape == (0, HISTORY_LENGTH)
    assert windows(none, np.zeros(2, np.int64), np.zeros(2, np.int64)).tolist() == [[0] * 10] * 2
    assert session_starts(none, none, 10).tolist() == []


def test_a_late_click_neither_splits_a_session_nor_turns_its_clock_back() -> None:
    users = np.zeros(5, np.int64)
    late = np.array([100, 20, 105, 111, 130])  # 20 is late; from it 105 would be far away
    assert session_starts(users, late, 10).tolist() == [0, 0, 0, 0, 4]


def test_users_never_share_a_session_or_a_clock() -> None:
    users = np.array([0, 0, 1, 1, 2])
    times = np.array([1000, 1001, 0, 1, 1001])
    for gap in (0, 10):
        assert session_starts(users, times, gap).tolist() == [0, 0, 2, 2, 4]


@pytest.mark.parametrize("users", [2, 100, 60_000])
def test_any_times_that_a_click_may_carry_give_the_right_sessions(users: int) -> None:
    """One shopper's clock stands at 1970 and another's in 9999: nobody else is any the worse."""
    who = np.repeat(np.arange(users), 3)
    times = np.tile(np.array([1000, 2000, 500_000]), users)
    times[0], times[-1] = 0, LATEST_TIMESTAMP
    expected = np.repeat(np.arange(users) * 3, 3)
    expected[2::3] += 2  # the third click comes after a pause
    assert (session_starts(who, times, 10_000) != expected).sum() == 0
