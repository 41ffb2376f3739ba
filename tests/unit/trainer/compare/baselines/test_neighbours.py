from __future__ import annotations

from math import exp, log

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from nextclick.trainer.compare.baselines.neighbours import VSkNN
from nextclick.trainer.data import Split
from tests.unit.logs import Session, cases_of, log_of, rows_of, session_lists, vocabulary_of


def naive(
    known: list[list[int]], items: int, history: list[int], sample: int, k: int, reach: float
) -> list[float]:
    """V-SkNN as its docstring says, one session at a time."""
    newest_first = list(dict.fromkeys(history[::-1]))
    weight = {row: 1 / (history[::-1].index(row) + 1) for row in newest_first}
    candidates = set()
    for row in newest_first:
        holding = [s for s, rows in enumerate(known) if row in rows]
        candidates |= set(holding[-sample:])
    newest = sorted(candidates)[-sample:]
    similarity = {s: sum(weight[row] for row in set(history) & set(known[s])) for s in newest}
    count_pairs = sorted(newest, key=lambda s: (-round(similarity[s], 9), -s))[:k]
    scores = [0.0] * items
    for s in count_pairs:
        rows = known[s]
        last = {row: i for i, row in enumerate(rows)}
        shared = next(row for row in newest_first if row in last)
        for row, place in last.items():
            idf = log((1 + len(known)) / sum(row in others for others in known))
            distance = abs(place - last[shared])
            scores[row - 1] += similarity[s] * weight[shared] * exp(-distance / reach) * idf
    return scores


@settings(max_examples=80)
@given(
    session_lists(items=8),
    st.lists(st.lists(st.integers(1, 8), min_size=1, max_size=10), min_size=1, max_size=4),
    st.sampled_from([(2500, 500, 4.0), (3, 2, 1.0), (2, 5, 4.0), (1, 1, 2.0)]),
)
def test_it_is_what_its_docstring_says(
    sessions: list[Session], histories: list[list[int]], options: tuple[int, int, float]
) -> None:
    clicks = log_of(sessions)
    vocabulary = vocabulary_of(clicks)
    known = rows_of(sessions, clicks, vocabulary)
    histories = [[1 + row % len(vocabulary) for row in history] for history in histories]
    method = VSkNN(*options)
    method.fit(clicks, vocabulary, 0)
    expected = [naive(known, len(vocabulary), history, *options) for history in histories]
    np.testing.assert_allclose(method.score(cases_of(histories)), expected, rtol=1e-4, atol=2e-6)


def test_newer_neighbours_are_kept() -> None:
    clicks = log_of([(9, Split.TRAIN, [0, 1]), (0, Split.TRAIN, [0, 2]), (5, Split.TRAIN, [3])])
    method = VSkNN(sample=1)
    method.fit(clicks, vocabulary_of(clicks), 0)
    scores = method.score(cases_of([[1]]))[0]
    rows = dict(zip(vocabulary_of(clicks).item_ids, scores, strict=True))
    assert rows["i2"] > rows["i1"]


def test_an_index_without_sessions_of_an_item_falls_back_to_popularity() -> None:
    clicks = log_of([(0, Split.TRAIN, [0, 0, 1])])
    method = VSkNN()
    method.fit(clicks, vocabulary_of(clicks).extended(["never clicked"]), 0)
    never_clicked = method.score(cases_of([[3]]))[0]
    assert never_clicked.argsort()[::-1].tolist() == [0, 1, 2]
