from __future__ import annotations

from collections import Counter, defaultdict
from math import sqrt

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextclick.shared.model import Vocabulary
from nextclick.trainer.compare.baselines.counting import (
    ItemKNN,
    Markov,
    Popularity,
    SessionPopularity,
)
from nextclick.trainer.data import Split, click_log, sessions_of
from tests.unit.logs import Session, cases_of, log_of, rows_of, session_lists, vocabulary_of

histories = st.lists(st.integers(1, 6), min_size=1, max_size=10)


def prepared(
    sessions: list[Session], history: list[int]
) -> tuple[list[list[int]], int, list[int], dict[int, int]]:
    """The sessions in rows, the catalogue's size, a history in it, and clicks per row."""
    log = log_of(sessions)
    vocabulary = vocabulary_of(log)
    known = rows_of(sessions, log, vocabulary)
    history = [1 + row % len(vocabulary) for row in history]
    return known, len(vocabulary), history, Counter(row for rows in known for row in rows)


def ranking(scores: list[float]) -> list[int]:
    return sorted(range(1, len(scores) + 1), key=lambda row: -scores[row - 1])


@settings(max_examples=50)
@given(session_lists())
def test_sessions_come_oldest_first_without_the_test(sessions: list[Session]) -> None:
    log = log_of(sessions)
    found = sessions_of(log, vocabulary_of(log))
    as_lists = [
        found.rows[a:b].tolist() for a, b in zip(found.bounds, found.bounds[1:], strict=False)
    ]
    assert as_lists == rows_of(sessions, log, vocabulary_of(log))
    assert found.starts.tolist() == found.bounds[found.number].tolist()
    with pytest.raises(ValueError, match="never sees the test"):
        sessions_of(log, vocabulary_of(log), (Split.TEST,))


def test_the_age_of_a_session_is_that_of_its_last_click_in_the_stream() -> None:
    clicks = [("a", "1", 0), ("b", "2", 10), ("a", "3", 20), ("b", "4", 1000), ("a", "5", 2000)]
    log = click_log(
        pd.DataFrame(clicks, columns=["user_id", "item_id", "timestamp"]), 500, 0.0, 0.0
    )
    found = sessions_of(log, Vocabulary(["1", "2", "3", "4", "5"]))
    assert found.rows.tolist() == [2, 1, 3, 4, 5]
    assert found.bounds.tolist() == [0, 1, 3, 4, 5]


def test_no_sessions() -> None:
    log = log_of([])
    assert len(sessions_of(log, Vocabulary([]))) == 0


@settings(max_examples=50)
@given(session_lists())
def test_popularity_ranks_by_clicks_then_row(sessions: list[Session]) -> None:
    _, items, _, clicks = prepared(sessions, [])
    method = Popularity()
    method.fit(log_of(sessions), vocabulary_of(log_of(sessions)), 0)
    scores = method.score(cases_of([[1]]))[0].tolist()
    assert ranking(scores) == sorted(range(1, items + 1), key=lambda row: (-clicks[row], row))


@settings(max_examples=50)
@given(session_lists(), histories)
def test_session_popularity_ranks_by_count_in_the_session_first(
    sessions: list[Session], history: list[int]
) -> None:
    _, items, history, clicks = prepared(sessions, history)
    method = SessionPopularity()
    method.fit(log_of(sessions), vocabulary_of(log_of(sessions)), 0)
    scores = method.score(cases_of([history]))[0].tolist()
    here = Counter(history)
    assert ranking(scores) == sorted(
        range(1, items + 1), key=lambda row: (-here[row], -clicks[row], row)
    )


@settings(max_examples=50)
@given(session_lists(), histories, st.sampled_from([0.0, 20.0]))
def test_item_knn_is_the_damped_cosine(
    sessions: list[Session], history: list[int], damping: float
) -> None:
    known, items, history, _ = prepared(sessions, history)
    method = ItemKNN(damping=damping)
    method.fit(log_of(sessions), vocabulary_of(log_of(sessions)), 0)
    scores = method.score(cases_of([history]))[0]
    last = history[-1]
    holding = {row: {s for s, rows in enumerate(known) if row in rows} for row in range(items + 1)}
    for row in range(1, items + 1):
        both = len(holding[row] & holding[last]) if row != last else 0
        scale = sqrt((len(holding[row]) + damping) * (len(holding[last]) + damping))
        assert scores[row - 1] == pytest.approx(both / scale, rel=1e-5)


def test_item_knn_keeps_only_the_nearest() -> None:
    log = log_of([(0, Split.TRAIN, [0, 1])] * 3 + [(0, Split.TRAIN, [0, 2])])
    method = ItemKNN(neighbours=1, damping=0.0)
    method.fit(log, vocabulary_of(log), 0)
    assert np.flatnonzero(method.score(cases_of([[1]]))[0]).tolist() == [1]


@settings(max_examples=50)
@given(
    session_lists(),
    histories,
    st.sampled_from([(1, 0.5, 1, 0.0), (10, 0.5, 1, 0.0), (10, 0.7, 10, 0.5), (3, 1.0, 2, 1.0)]),
)
def test_markov_mixes_the_transitions_of_the_last_items(
    sessions: list[Session], history: list[int], options: tuple[int, float, int, float]
) -> None:
    steps, decay, reach, backward = options
    known, items, history, _ = prepared(sessions, history)
    follows: dict[int, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for rows in known:
        for a in range(len(rows)):
            for b in range(a + 1, min(a + reach, len(rows) - 1) + 1):
                follows[rows[a]][rows[b]] += 1 / (b - a)
                follows[rows[b]][rows[a]] += backward / (b - a)
    expected = np.zeros(items)
    for back, row in enumerate(history[::-1][:steps]):
        total = sum(follows[row].values())
        for other, count in follows[row].items():
            expected[other - 1] += decay**back * count / total if total else 0.0

    method = Markov("", steps, decay, reach, backward)
    method.fit(log_of(sessions), vocabulary_of(log_of(sessions)), 0)
    np.testing.assert_allclose(method.score(cases_of([history]))[0], expected, atol=3e-6)


def test_markov_orders_items_without_evidence_by_popularity() -> None:
    log = log_of([(0, Split.TRAIN, [0, 1]), (1, Split.TRAIN, [2, 3]), (2, Split.TRAIN, [3])])
    method = Markov("", steps=1)
    method.fit(log, vocabulary_of(log), 0)
    assert ranking(method.score(cases_of([[1]]))[0].tolist()) == [2, 4, 1, 3]
