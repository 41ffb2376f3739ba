from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextclick.shared.errors import CheckpointError
from nextclick.shared.model import Calibration, Scorer
from nextclick.trainer.data import Samples
from nextclick.trainer.evaluate import (
    METRICS,
    Evaluation,
    FloatArray,
    evaluate,
    evaluate_model,
    evaluate_popularity,
    ranks_of,
)
from nextclick.trainer.evaluate.metrics import MISS, auc_with_error
from tests.unit.builders import CPU, checkpoint, evaluate_scores


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
    auc, _ = auc_with_error(np.array(positive), np.array(negative))
    assert auc == pytest.approx(np.mean(pairs))


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


@given(
    scores=st.lists(st.integers(0, 4).map(float), min_size=1, max_size=12),
    target=st.integers(0, 12),
)
def test_a_rank_counts_every_item_that_is_not_worse(scores: list[float], target: int) -> None:
    target = min(target, len(scores))
    (rank,) = ranks_of(np.array([scores]), np.array([target]))
    others = [s for i, s in enumerate(scores, start=1) if i != target]
    assert rank == (MISS if target == 0 else 1 + sum(s >= scores[target - 1] for s in others))


def test_many_cases_are_ranked_as_each_would_be_alone() -> None:
    """More than one batch, with windows that the model knows nothing of in between."""
    rng = np.random.default_rng(0)
    many = Samples(rng.integers(1, 31, (2500, 10)), rng.integers(0, 31, 2500))
    many.histories[::7] = 0
    ours = checkpoint()
    ranks = evaluate_model(ours, many, CPU).ranks
    scorer = Scorer(ours, CPU, top_k=1)
    for i in (0, 1, 6, 1023, 1024, 1029, 2047, 2048, 2499):
        target = int(many.targets[i])
        if target == 0:
            expected = MISS
        elif i % 7 == 0:
            expected = target  # the builder's popularity falls with the row
        else:
            (row,) = scorer.log_probabilities(many.histories[i : i + 1]).numpy()
            expected = int((row >= row[target - 1]).sum())
        assert ranks[i] == expected


def test_many_cases_are_ranked_by_popularity_in_their_order() -> None:
    targets = np.random.default_rng(0).integers(0, 31, 3000)
    evaluation = evaluate_popularity(np.arange(30, 0, -1), cases(targets.tolist()))
    assert evaluation.ranks.tolist() == [t or MISS for t in targets.tolist()]


def test_equally_popular_items_are_ranked_as_they_are_served() -> None:
    """The fallback list breaks ties by row, for the model's windows as for the popularity list."""
    ours = replace(checkpoint(), popularity=np.full(30, 5))
    unknown = cases([1, 2, 30], history=0)
    served = [item.item_id for item in Scorer(ours, CPU, 30).recommend([["?"]])[0].items]
    assert served == [str(i) for i in range(1, 31)]
    assert evaluate_popularity(ours.popularity, unknown).ranks.tolist() == [1, 2, 30]
    assert evaluate_model(ours, unknown, CPU).ranks.tolist() == [1, 2, 30]


def test_the_auc_compares_with_items_other_than_the_target() -> None:
    """The target always has the best score: it wins against any other item, never ties itself."""
    scores = np.tile(np.array([1.0, 0.0, 0.0]), (500, 1))
    assert evaluate_scores(scores, cases([1] * 500)).auc == 1.0


def test_the_auc_looks_at_the_scores_of_the_same_case() -> None:
    """Cases whose target the model cannot name are left out and shift nobody else's scores."""
    targets = [0, 1, 2, 3] * 50
    scores = np.zeros((200, 3))
    for row, target in zip(scores, targets, strict=True):
        row[target - 1] = 1.0 if target else 0.0
        row += 10.0 if target == 0 else 0.0
    assert evaluate_scores(scores, cases(targets)).auc == 1.0


def test_without_anything_to_compare_there_is_no_auc() -> None:
    assert np.isnan(evaluate_scores(np.ones((2, 1)), cases([1, 1])).auc)
    assert np.isnan(evaluate_scores(np.ones((2, 5)), cases([0, 0])).auc)
    assert np.isnan(auc_with_error(np.array([]), np.array([1.0]))).all()


def test_the_cuts_are_at_ten_and_twenty() -> None:
    metrics = Evaluation(np.array([10, 11, 20, 21]), auc=0.5).metrics()
    assert (metrics["hr@10"], metrics["hr@20"]) == (1 / 4, 3 / 4)
    assert metrics["ndcg@10"] == pytest.approx(1 / np.log2(11) / 4)
    assert metrics["mrr@20"] == pytest.approx((1 / 10 + 1 / 11 + 1 / 20) / 4)


scored = st.integers(0, 4).map(float)


@given(
    scores=st.lists(st.lists(scored, min_size=6, max_size=6), min_size=1, max_size=8),
    targets=st.lists(st.integers(0, 6), min_size=8, max_size=8),
)
def test_every_metric_is_what_its_definition_says(
    scores: list[list[float]], targets: list[int]
) -> None:
    got = evaluate_scores(np.array(scores), cases(targets[: len(scores)]))
    expected: dict[str, list[float]] = {metric: [] for metric in METRICS}
    for row, target in zip(scores, targets, strict=False):
        better = [
            j for j in range(1, 7) if j != target and target and row[j - 1] >= row[target - 1]
        ]
        place = len(better) + 1 if target else 10**9
        for k in (5, 10, 20):
            expected[f"hr@{k}"].append(float(place <= k))
        expected["mrr@20"].append(1 / place if place <= 20 else 0.0)
        expected["ndcg@10"].append(1 / np.log2(place + 1) if place <= 10 else 0.0)
    for metric, values in expected.items():
        np.testing.assert_allclose(got.per_case(metric), values)
        assert got.metrics()[metric] == pytest.approx(np.mean(values))


@given(scores=st.lists(st.lists(scored, min_size=30, max_size=30), min_size=1, max_size=4))
def test_an_item_is_covered_if_it_could_be_a_hit_in_some_list(scores: list[list[float]]) -> None:
    got = evaluate_scores(np.array(scores), cases([1] * len(scores)), coverage=True)
    expected = [any(sum(s >= row[item] for s in row) <= 20 for row in scores) for item in range(30)]
    assert got.covered is not None
    assert got.covered.tolist() == expected


def test_coverage_is_computed_only_where_it_is_asked_for() -> None:
    assert evaluate_scores(np.eye(30), cases([1] * 30)).covered is None
    small = evaluate_scores(np.zeros((1, 3)), cases([1]), coverage=True)  # all fit into any list
    assert small.covered is not None
    assert small.covered.all()


def test_a_large_catalogue_is_ranked_in_small_batches_with_the_same_ranks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scores = np.random.default_rng(0).random((500, 40))
    targets = np.random.default_rng(1).integers(0, 41, 500).tolist()
    whole = evaluate_scores(scores, cases(targets), coverage=True)
    monkeypatch.setattr("nextclick.trainer.evaluate.metrics._MAX_SCORES", 40 * 7)
    sizes = []

    def score(part: Samples) -> FloatArray:
        sizes.append(len(part))
        return scores[sum(sizes[:-1]) : sum(sizes)]

    pieces = evaluate(score, np.ones(40, np.int64), cases(targets), coverage=True)
    assert max(sizes) == 7
    assert pieces.ranks.tolist() == whole.ranks.tolist()
    assert (pieces.auc, pieces.auc_error) == (whole.auc, whole.auc_error)


def test_first_items_have_a_probability_where_the_scores_are_log_p() -> None:
    log_p = np.log([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])
    asked = cases([1, 1])
    asked.histories[1] = 0  # popularity ranks it: what it is shown with is no probability
    calibration = Calibration(c=-1.0)

    def of(**options: Calibration) -> Evaluation:
        return evaluate(lambda part: log_p[: len(part)], np.ones(3, np.int64), asked, **options)

    found = of(calibration=calibration)
    assert found.first_p_before == pytest.approx([0.7, np.nan], nan_ok=True)
    assert found.first_p == pytest.approx(
        [calibration.probabilities(np.log(0.7)), np.nan], nan_ok=True
    )
    assert found.calibration_error(calibrated=False) == pytest.approx(0.3)
    as_it_is = of(calibration=Calibration())
    assert as_it_is.calibration_error() == pytest.approx(0.3)
    assert as_it_is.first_p_before is None
    assert of().first_p is None


def test_methods_are_asked_only_about_histories_that_they_know_something_of() -> None:
    mixed = cases([1, 2, 3, 4])
    mixed.histories[[0, 2]] = 0
    asked: list[int] = []

    def score(part: Samples) -> FloatArray:
        asked.extend(part.targets.tolist())
        return np.zeros((len(part), 4))

    ranks = evaluate(score, np.array([1, 2, 3, 4]), mixed).ranks
    assert asked == [2, 4]
    assert ranks.tolist() == [4, 4, 2, 4]  # popularity, a tie of all, popularity, a tie


def test_the_aucs_error_is_its_spread_over_repeated_draws() -> None:
    rng = np.random.default_rng(0)

    def draw() -> tuple[float, float]:
        common = rng.normal(size=300)  # both scores of a case move together
        positive = common + rng.normal(0.7, 1.0, 300)
        return auc_with_error(positive, common + rng.normal(size=300))

    areas, errors = np.array([draw() for _ in range(400)]).T
    assert np.mean(errors) == pytest.approx(areas.std(ddof=1), rel=0.1)
