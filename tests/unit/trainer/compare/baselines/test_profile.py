from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from nextclick.shared.errors import ConfigurationError
from nextclick.trainer.compare.baselines.profile import LinUCB, UserItemMLP
from nextclick.trainer.compare.method import Method
from nextclick.trainer.data import ClickLog, Samples, Split
from tests.unit.logs import Session, cases_of, log_of, session_lists, vocabulary_of

EVERY = pytest.mark.parametrize("method", [UserItemMLP(epochs=30), LinUCB()], ids=lambda m: m.name)


def two_tastes(users: int = 6) -> list[Session]:
    """Even users click items 0, 1, 2, odd users 3, 4, 5; two sessions each."""
    rng = np.random.default_rng(0)
    return [
        (user, split, (rng.integers(0, 3, 300) + 3 * (user % 2)).tolist())
        for split in (Split.TRAIN, Split.VALIDATION)
        for user in range(users)
    ]


def fitted(method: Method, log: ClickLog) -> Method:
    method.fit(log, vocabulary_of(log), 0)
    return method


def rows(log: ClickLog, items: range) -> list[int]:
    return (vocabulary_of(log).rows([f"i{i}" for i in items]) - 1).tolist()


@EVERY
def test_each_user_gets_what_they_like(method: Method) -> None:
    log = log_of(two_tastes())
    scores = fitted(method, log).score(cases_of([[1]] * 6, users=list(range(6))))
    low, high = rows(log, range(3)), rows(log, range(3, 6))
    for user, of_user in enumerate(scores):
        liked, other = (high, low) if user % 2 else (low, high)
        assert of_user[liked].min() > of_user[other].max()


@EVERY
def test_unknown_users_share_the_mean_users_scores(method: Method) -> None:
    """User 9 clicks in the test alone, user 99 nowhere: between the tastes, as is the mean."""
    log = log_of([*two_tastes(), (9, Split.TEST, [0, 0])])
    scores = fitted(method, log).score(cases_of([[1]] * 4, users=[0, 1, 9, 99]))
    np.testing.assert_array_equal(scores[2], scores[3])
    low, high = rows(log, range(3)), rows(log, range(3, 6))
    preference = scores[:, low].mean(axis=1) - scores[:, high].mean(axis=1)
    assert preference[0] > preference[2] > preference[1]


@EVERY
def test_data_in_which_no_user_comes_back_is_refused(method: Method) -> None:
    once: list[Session] = [(u, Split.TRAIN, [0, 1, 2]) for u in range(5)]
    once += [(9, Split.TEST, [0, 1]), (9, Split.TEST, [1])]
    with pytest.raises(ConfigurationError, match=r"needs users who return.*leave the method"):
        fitted(method, log_of(once))


@EVERY
def test_cases_without_users_are_refused(method: Method) -> None:
    cases = cases_of([[1]])
    with pytest.raises(ConfigurationError, match="user of each case"):
        fitted(method, log_of(two_tastes())).score(Samples(cases.histories, cases.targets))


@pytest.mark.parametrize("split", [Split.TRAIN, Split.VALIDATION])
def test_one_session_in_two_splits_or_two_in_one_is_coming_back(split: Split) -> None:
    fitted(LinUCB(), log_of([(0, Split.TRAIN, [0, 1]), (0, split, [1])]))


def test_the_network_scores_the_catalogue_as_it_scores_pairs() -> None:
    method = UserItemMLP(epochs=2)
    log = log_of(two_tastes())
    scores = fitted(method, log).score(cases_of([[1]] * 3, users=[4, 0, 4]))
    with torch.inference_mode():
        for user, of_user in zip([4, 0, 4], scores, strict=True):
            one_by_one = method._network(torch.full((6,), user), torch.arange(1, 7)).numpy()
            np.testing.assert_allclose(of_user, one_by_one, atol=1e-6)


def test_training_ends_in_time() -> None:
    began = time.monotonic()
    fitted(UserItemMLP(epochs=10**6, max_seconds=0.2), log_of(two_tastes()))
    assert time.monotonic() - began < 20


@settings(max_examples=40)
@given(session_lists())
def test_lin_ucb_is_one_ridge_regression_per_user(sessions: list[Session]) -> None:
    sessions = [*sessions, (0, Split.TRAIN, [0]), (0, Split.TRAIN, [1])]
    log = log_of(sessions)
    vocabulary = vocabulary_of(log)
    method = LinUCB(alpha=0.5, ridge=2.0, negatives=0, dim=2)
    method.fit(log, vocabulary, 0)
    scores = method.score(cases_of([[1]] * 5, users=list(range(5))))

    x = method._x
    for user in range(5):
        clicked = [i for u, s, items in sessions if u == user and s != Split.TEST for i in items]
        if not clicked:
            continue  # the mean user's, tested above
        A, b = 2.0 * np.eye(x.shape[1]), np.zeros(x.shape[1])
        for item in clicked:
            seen = x[vocabulary.item_ids.index(f"i{item}")]
            A += np.outer(seen, seen)
            b += seen
        theta = np.linalg.solve(A, b)
        bound = np.sqrt(np.sum(x @ np.linalg.inv(A) * x, axis=1))
        np.testing.assert_allclose(scores[user], x @ theta + 0.5 * bound, atol=1.1e-3)


def test_more_exploration_favours_what_the_user_has_not_tried() -> None:
    log = log_of([(0, Split.TRAIN, [0] * 9), (0, Split.TRAIN, [0]), (1, Split.TRAIN, [1])])
    for alpha, best in ((0.0, 0), (5.0, 1)):
        method = LinUCB(alpha=alpha, negatives=0)
        assert fitted(method, log).score(cases_of([[1]], users=[0]))[0].argmax() == best


def test_items_with_the_same_features_are_ordered_by_popularity() -> None:
    log = log_of([(0, Split.TRAIN, [2, 1, 1]), (0, Split.TRAIN, [0, 1, 2])])
    method = LinUCB(dim=0)
    scores = fitted(method, log).score(cases_of([[1]], users=[0]))[0]
    ranked = [vocabulary_of(log).item_ids[i] for i in scores.argsort()[::-1]]
    assert ranked == ["i1", "i2", "i0"]
