from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import CheckpointError
from tests.unit.builders import CPU, checkpoint
from trainer.dataset import Samples
from trainer.evaluate import (
    MISS,
    Evaluation,
    auc_of,
    evaluate_model,
    evaluate_popularity,
    evaluate_scores,
    ranks_of,
)


def cases(targets: list[int], history: int = 1) -> Samples:
    histories = np.zeros((len(targets), 10), np.int64)
    histories[:, -1] = history
    return Samples(histories, np.array(targets))


def test_ties_stand_against_the_model() -> None:
    scores = np.array([[3.0, 2.0, 2.0, 1.0], [5.0, 5.0, 5.0, 5.0]])
    assert ranks_of(scores, np.array([2, 1])).tolist() == [3, 4]
    assert ranks_of(scores, np.array([1, 0])).tolist() == [1, MISS]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_scores_that_are_no_numbers_are_refused(bad: float) -> None:
    with pytest.raises(CheckpointError, match="finite"):
        ranks_of(np.array([[1.0, bad]]), np.array([1]))


def test_metrics_by_hand() -> None:
    metrics = Evaluation(np.array([1, 3, 11, MISS]), auc=0.7).metrics()
    assert metrics["hr@10"] == pytest.approx(2 / 4)
    assert metrics["hr@20"] == pytest.approx(3 / 4)
    assert metrics["ndcg@10"] == pytest.approx((1 + 1 / 2) / 4)
    assert metrics["mrr@20"] == pytest.approx((1 + 1 / 3 + 1 / 11) / 4)
    assert (metrics["auc"], metrics["cases"]) == (0.7, 4)


values = st.lists(st.integers(0, 5).map(float), min_size=1, max_size=20)


@given(positive=values, negative=values)
def test_auc_is_the_share_of_pairs_won(positive: list[float], negative: list[float]) -> None:
    pairs = [(p > n) + (p == n) / 2 for p in positive for n in negative]
    assert auc_of(np.array(positive), np.array(negative)) == pytest.approx(np.mean(pairs))


def test_a_collapsed_model_hits_nothing() -> None:
    evaluation = evaluate_scores(np.ones((50, 30)), cases([1] * 50))
    assert evaluation.metrics()["hr@10"] == 0.0
    assert evaluation.auc == 0.5


def test_a_perfect_model_hits_everything() -> None:
    targets = list(range(1, 31))
    evaluation = evaluate_scores(np.eye(30), cases(targets))
    assert evaluation.metrics()["mrr@20"] == 1.0
    assert evaluation.auc == 1.0


def test_popularity_ranks_by_count_and_then_by_row() -> None:
    evaluation = evaluate_popularity(np.array([5, 9, 5, 0]), cases([2, 1, 3, 4, 0]))
    assert evaluation.ranks.tolist() == [1, 2, 3, 4, MISS]


def test_windows_without_a_known_item_are_answered_by_popularity() -> None:
    evaluation = evaluate_model(checkpoint(), cases([1, 2, 30], history=0), CPU)
    assert evaluation.ranks.tolist() == [1, 2, 30]


def test_no_cases_no_metrics_to_divide() -> None:
    assert len(evaluate_model(checkpoint(), cases([]), CPU).ranks) == 0
