"""Small logs from lists of sessions, for tests of methods that learn from them."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from nextclick.shared.model import Vocabulary
from nextclick.shared.windows import HISTORY_LENGTH, IntArray
from nextclick.trainer.data import ClickLog, Samples, Split

Session = tuple[int, Split, list[int]]
"""User, the split of all its clicks, item numbers 0, 1, …"""


def log_of(sessions: list[Session]) -> ClickLog:
    """A log of whole sessions; it lies grouped by user, its stream is the list's order."""
    by_user = sorted(range(len(sessions)), key=lambda s: sessions[s][0])
    place = np.cumsum([0, *(len(items) for _, _, items in sessions)])
    users, items, starts, split, order = [], [], [], [], []
    for s in by_user:
        user, part, clicked = sessions[s]
        users += [user] * len(clicked)
        starts += [len(items)] * len(clicked)
        split += [part] * len(clicked)
        order += range(place[s], place[s + 1])
        items += clicked
    columns = [np.array(c, np.int64) for c in (users, items, starts, split)]
    return ClickLog(
        *columns,
        item_ids=[f"i{i}" for i in range(max(items, default=-1) + 1)],
        user_ids=np.array([f"u{u}" for u in range(max(users, default=-1) + 1)], object),
        first_timestamp=0,
        last_timestamp=0,
        order=np.array(order, np.int64),
    )


def vocabulary_of(log: ClickLog) -> Vocabulary:
    return Vocabulary(log.ids_in(Split.TRAIN)).extended(log.ids_in(Split.VALIDATION))


def cases_of(histories: list[list[int]], users: list[int] | None = None) -> Samples:
    """Cases with these histories of rows, left-padded; the targets do not matter."""
    table = np.zeros((len(histories), HISTORY_LENGTH), np.int64)
    for row, history in zip(table, histories, strict=True):
        row[HISTORY_LENGTH - len(history) :] = history
    numbers: IntArray = np.zeros(len(table), np.int64) if users is None else np.array(users)
    return Samples(table, np.ones(len(table), np.int64), users=numbers)


def rows_of(sessions: list[Session], log: ClickLog, vocabulary: Vocabulary) -> list[list[int]]:
    """What a method may learn from: the rows of every session outside the test."""
    row = vocabulary.rows(log.item_ids).tolist()
    return [[row[i] for i in items] for _, split, items in sessions if split != Split.TEST]


def session_lists(items: int = 6, longest: int = 14) -> st.SearchStrategy[list[Session]]:
    """Lists of sessions with at least one click outside the test."""
    session = st.tuples(
        st.integers(0, 4),
        st.sampled_from(Split),
        st.lists(st.integers(0, items - 1), min_size=1, max_size=longest),
    )
    return st.lists(session, min_size=1, max_size=12).filter(
        lambda sessions: any(split != Split.TEST for _, split, _ in sessions)
    )
