"""What holds for every baseline."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from nextclick.shared.model import Vocabulary
from nextclick.trainer.compare.baselines import BASELINES
from nextclick.trainer.compare.method import Method, Scores
from nextclick.trainer.data import Split, samples
from tests.unit.logs import Session, cases_of, log_of, vocabulary_of

ITEMS = 9
BLIND_TO_ORDER = {"Popularity", "Session popularity", "User × item MLP", "LinUCB"}
every_baseline = pytest.mark.parametrize("name", BASELINES)


def traffic(seed: int = 0) -> list[Session]:
    """Users who come back and walk around a circle of items; some sessions are one click."""
    rng = np.random.default_rng(seed)
    sessions = []
    for split, count in ((Split.TRAIN, 60), (Split.VALIDATION, 12), (Split.TEST, 12)):
        for _ in range(count):
            walk = rng.integers(ITEMS) + np.cumsum(rng.choice([1, 1, 2], rng.integers(1, 14)))
            sessions.append((int(rng.integers(6)), split, (walk % ITEMS).tolist()))
    return sessions


def fitted(name: str, sessions: list[Session], seed: int = 1) -> Method:
    log = log_of(sessions)
    method = BASELINES[name]()
    assert method.name == name
    method.fit(log, vocabulary_of(log), seed)
    return method


@cache
def ready(name: str) -> Method:
    """Fitted on `traffic()` once, for tests that only ask."""
    return fitted(name, traffic())


CASES = cases_of([[1], [2, 3], [5, 5, 5], [1, 2, 3, 4, 5, 6, 7, 8, 9, 1]], users=[0, 1, 5, 99])


def scores_of(name: str, sessions: list[Session], seed: int = 1) -> Scores:
    return fitted(name, sessions, seed).score(CASES)


@every_baseline
def test_every_item_gets_a_finite_score_and_hardly_two_the_same(name: str) -> None:
    scores = ready(name).score(CASES)
    assert scores.shape == (4, ITEMS)
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()
    assert all(len(set(row)) >= (2 if name == "Item-kNN" else ITEMS - 1) for row in scores.tolist())


@every_baseline
def test_the_same_seed_gives_the_same_scores(name: str) -> None:
    np.testing.assert_array_equal(scores_of(name, traffic()), ready(name).score(CASES))


@pytest.mark.parametrize("name", ["User × item MLP", "LinUCB", "GRU4Rec", "SASRec"])
def test_another_seed_gives_others(name: str) -> None:
    assert (ready(name).score(CASES) != scores_of(name, traffic(), seed=2)).any()


@every_baseline
def test_the_test_split_changes_nothing(name: str) -> None:
    sessions = traffic()
    other = [
        (user, split, [0] * len(items) if split == Split.TEST else items)
        for user, split, items in sessions
    ]
    assert sessions != other
    np.testing.assert_array_equal(ready(name).score(CASES), scores_of(name, other))


@every_baseline
def test_validation_clicks_are_learned_from(name: str) -> None:
    sessions = traffic()
    other = [
        (user, split, [*items[::-1], 0] if split == Split.VALIDATION else items)
        for user, split, items in sessions
    ]
    assert (ready(name).score(CASES) != scores_of(name, other)).any()


@every_baseline
def test_order_matters_where_it_should(name: str) -> None:
    method = ready(name)
    one, other = method.score(cases_of([[1, 2, 3], [3, 2, 1]]))
    if name in BLIND_TO_ORDER:
        np.testing.assert_array_equal(one, other)
    else:
        assert (one != other).any()


@every_baseline
def test_scores_do_not_depend_on_the_other_cases(name: str) -> None:
    method = ready(name)
    together = method.score(CASES)
    for i, row in enumerate(together):
        np.testing.assert_allclose(method.score(CASES.take(np.array([i])))[0], row, rtol=1e-5)


@every_baseline
def test_asking_does_not_change_the_answer(name: str) -> None:
    method = ready(name)
    first = method.score(CASES).copy()
    np.testing.assert_array_equal(method.score(CASES), first)


@every_baseline
def test_items_that_the_vocabulary_lacks_are_left_out(name: str) -> None:
    """In the log as in the histories: as if they had not been clicked."""
    log = log_of(traffic())
    vocabulary = Vocabulary([f"i{i}" for i in range(ITEMS) if i != 4])
    method = BASELINES[name]()
    method.fit(log, vocabulary, seed=1)
    cases = samples(log, Split.TEST, vocabulary)
    known = cases.take(np.flatnonzero(cases.histories.any(axis=1)))
    scores = method.score(known)
    assert scores.shape == (len(known), ITEMS - 1)
    assert np.isfinite(scores).all()


@every_baseline
def test_a_log_without_one_pair_of_clicks(name: str) -> None:
    sessions: list[Session] = [(0, Split.TRAIN, [0]), (0, Split.TRAIN, [1]), (1, Split.TRAIN, [1])]
    scores = fitted(name, sessions).score(cases_of([[1], [2, 1]]))
    assert scores.shape == (2, 2)
    assert np.isfinite(scores).all()


@every_baseline
def test_a_catalogue_of_one_item(name: str) -> None:
    sessions: list[Session] = [(0, split, [0, 0]) for split in (Split.TRAIN, Split.VALIDATION)]
    scores = fitted(name, sessions).score(cases_of([[1]]))
    assert scores.shape == (1, 1)
    assert np.isfinite(scores).all()


@every_baseline
def test_no_cases(name: str) -> None:
    method = ready(name)
    assert method.score(CASES.take(np.zeros(0, np.int64))).shape == (0, ITEMS)


@pytest.mark.parametrize("name", [n for n in BASELINES if n not in {"User × item MLP", "LinUCB"}])
def test_users_are_not_needed(name: str) -> None:
    method = ready(name)
    np.testing.assert_array_equal(method.score(replace(CASES, users=None)), method.score(CASES))
