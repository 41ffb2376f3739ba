"""Ranking metrics over the full catalogue: HR@k, NDCG@k, MRR@k; and AUC.

The gate, the manifests and `nextclick evaluate` all use `evaluate`. It ranks cases in batches of
bounded memory and keeps the rank of each case, so that two methods can be compared case by case.
Ranks are pessimistic: a target that ties with other items ranks behind all of them, so a constant
or collapsed model gets no hits. Scores that are not finite raise an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from nextclick.shared.errors import CheckpointError
from nextclick.shared.model import Calibration, Checkpoint, Scorer
from nextclick.shared.model.calibration import UNCALIBRATED
from nextclick.shared.windows import PADDING, IntArray
from nextclick.trainer.data import Samples, sample_negatives
from nextclick.trainer.evaluate.calibration_error import expected_calibration_error, noise

FloatArray = npt.NDArray[np.floating[Any]]
Score = Callable[[Samples], FloatArray]
"""Cases, each with a known item in the history → scores of the catalogue, shape [B, items]."""

METRICS = ("hr@5", "hr@10", "hr@20", "mrr@20", "ndcg@10")
COVERAGE_K = 20
"""Length of the lists for catalogue coverage."""
MISS = np.iinfo(np.int64).max
"""Rank of a target that is not in the catalogue."""

MOST_TYPES = 10
"""Most event types that are shown one by one."""
_ROWS = 1024
_MAX_SCORES = 16_000_000
"""Most scores in memory at once: 64 MB of float32, for any size of the catalogue."""


@dataclass(frozen=True)
class Evaluation:
    """Outcome of ranking the catalogue for M cases."""

    ranks: IntArray
    """Shape [M], 1 = first; MISS if the item is not in the catalogue."""
    auc: float
    """P(score of a target > score of a random other item), ties count half, over all cases."""
    auc_error: float = float("nan")
    """Standard error of the AUC over cases."""
    covered: npt.NDArray[np.bool_] | None = None
    """Shape [items]: items among the first COVERAGE_K of any case; None if not requested."""
    first_p: npt.NDArray[np.float64] | None = None
    """Shape [M]: the probability that is shown for the first item; NaN where popularity ranks. None
    for what gives no probabilities."""
    first_p_before: npt.NDArray[np.float64] | None = None
    """The same before calibration; None without one."""

    def hits(self, k: int = 10) -> npt.NDArray[np.float64]:
        """Shape [M]: 1.0 if the target is among the first k, else 0.0."""
        return (self.ranks <= k).astype(np.float64)

    def per_case(self, metric: str) -> npt.NDArray[np.float64]:
        """Shape [M]: the value of each case, whose mean is `metric`, one of METRICS."""
        name, k = metric.split("@")
        ranks = np.minimum(self.ranks, 10**9)
        hits = self.hits(int(k))
        if name == "hr":
            return hits
        values: npt.NDArray[np.float64] = (
            hits / ranks if name == "mrr" else hits * discounted_gain(ranks)
        )
        return values

    def metrics(self) -> dict[str, float]:
        """Metric name → mean over the cases, for manifests and reports."""
        means = {metric: float(self.per_case(metric).mean()) for metric in METRICS}
        if (error := self.calibration_error()) is not None:
            means["ece"] = error
        return {"cases": float(len(self.ranks)), **means, "auc": self.auc}

    def calibration_error(self, *, calibrated: bool = True) -> float | None:
        """ECE of the first items' probabilities; None without any.

        calibrated: of those that are shown, else of those before calibration.
        """
        first_p = self.first_p if calibrated else self.first_p_before
        if first_p is None or not (ranked := ~np.isnan(first_p)).any():
            return None
        return expected_calibration_error(first_p[ranked], self.hits(1)[ranked])

    def calibration_noise(self) -> float:
        """What `calibration_error` could be by chance alone (95 %)."""
        assert self.first_p is not None
        return noise(self.first_p[~np.isnan(self.first_p)])


def most_frequent_types(types: npt.NDArray[np.object_], most: int = MOST_TYPES) -> list[str]:
    """The event types of cases [M], most frequent first; none if all are of one type."""
    counts = Counter(types.tolist())
    return [name for name, _ in counts.most_common(most)] if len(counts) > 1 else []


def discounted_gain(ranks: IntArray) -> npt.NDArray[np.float64]:
    """1/log₂(1 + rank), of any shape; its mean is NDCG without a cutoff."""
    gain: npt.NDArray[np.float64] = 1.0 / np.log2(1.0 + ranks)
    return gain


def ranks_of(scores: FloatArray, targets: IntArray) -> IntArray:
    """Pessimistic rank of each target in its row of scores [B, items]: shape [B], 1 = first.

    targets: shape [B], catalogue rows; PADDING gives MISS. Raises CheckpointError if a score is not
    finite.
    """
    if not np.isfinite(scores).all():
        raise CheckpointError("the model gave scores that are not finite numbers")
    in_catalogue = targets != PADDING
    own = np.take_along_axis(scores, np.where(in_catalogue, targets - 1, 0)[:, None], axis=1)
    return np.where(in_catalogue, (scores >= own).sum(axis=1), MISS)


def auc_with_error(positive: FloatArray, negative: FloatArray) -> tuple[float, float]:
    """Area under the ROC curve of scores [M] and [N], and its standard error.

    The error is that of DeLong et al., "Comparing the Areas under Two or More Correlated ROC
    Curves" (Biometrics, 1988), for paired scores: entry i of both belongs to one case. It is NaN if
    the lengths differ.
    """
    if len(positive) == 0 or len(negative) == 0:
        return float("nan"), float("nan")
    wins = _fraction_below(positive, negative)
    auc = float(wins.mean())
    if len(positive) != len(negative) or len(positive) < 2:
        return auc, float("nan")
    influence = wins + (1.0 - _fraction_below(negative, positive))
    return auc, float(influence.std(ddof=1) / np.sqrt(len(influence)))


def _fraction_below(scores: FloatArray, others: FloatArray) -> npt.NDArray[np.float64]:
    """For each score, the fraction of `others` that is lower; equal ones count half."""
    others = np.sort(others)
    below = np.searchsorted(others, scores, "left") + np.searchsorted(others, scores, "right")
    return below / (2.0 * len(others))


def evaluate(
    score: Score,
    popularity: IntArray,
    cases: Samples,
    *,
    coverage: bool = False,
    calibration: Calibration | None = None,
) -> Evaluation:
    """Rank the catalogue for every case.

    popularity: shape [items], click counts. They rank cases whose history has no known item, for
    every method, as when serving. The AUC compares each target with one random other item, the same
    one for every method. coverage: compute `covered`, too. calibration: of scores that
    are log P, for `first_p`.
    """
    items = len(popularity)
    fallback = popularity_scores(popularity)
    in_catalogue = cases.targets != PADDING
    others = np.full(len(cases), PADDING, np.int64)
    if items > 1:
        rng = np.random.default_rng(0)
        others[in_catalogue] = sample_negatives(cases.targets[in_catalogue], 1, items, rng)[:, 0]
    ranks = np.full(len(cases), MISS, np.int64)
    pairs = np.zeros((2, len(cases)))
    covered = np.zeros(items, bool)
    best = np.full(len(cases), np.nan)
    known = (cases.histories != PADDING).any(axis=1, keepdims=True)[:, 0]
    for index in _batches(np.flatnonzero(known), items) + _batches(np.flatnonzero(~known), items):
        if known[index[0]]:
            scores = score(cases.take(index))
            if calibration is not None:
                best[index] = scores.max(axis=1)
        else:
            scores = np.broadcast_to(fallback, (len(index), items))
        targets = cases.targets[index]
        ranks[index] = ranks_of(scores, targets)
        each = np.arange(len(index))
        pairs[:, index] = scores[each, targets - 1], scores[each, others[index] - 1]
        if coverage:
            covered[_within_first(scores, COVERAGE_K)] = True
    compared = others != PADDING
    auc, error = auc_with_error(pairs[0, compared], pairs[1, compared])
    covered_items = covered if coverage else None
    if calibration is None:
        return Evaluation(ranks, auc, error, covered_items)
    before = np.exp(best) if calibration != UNCALIBRATED else None
    first_p = calibration.probabilities(best)
    return Evaluation(ranks, auc, error, covered_items, first_p, before)


def evaluate_model(checkpoint: Checkpoint, cases: Samples, device: torch.device) -> Evaluation:
    """Evaluate a checkpoint on cases in the rows of its vocabulary."""
    score, calibration = model_score(checkpoint, device), checkpoint.calibration
    return evaluate(score, checkpoint.popularity, cases, calibration=calibration)


def model_score(checkpoint: Checkpoint, device: torch.device) -> Score:
    """A Score: the log-probabilities of a checkpoint, by the same scorer as in serving."""
    scorer = Scorer(checkpoint, device, top_k=1)
    return lambda cases: scorer.log_probabilities(cases.histories).cpu().numpy()


def evaluate_popularity(popularity: IntArray, cases: Samples) -> Evaluation:
    """Evaluate the popularity list, which is the same for every case."""
    scores = popularity_scores(popularity)
    return evaluate(
        lambda part: np.broadcast_to(scores, (len(part), len(scores))), popularity, cases
    )


def popularity_scores(popularity: IntArray) -> npt.NDArray[np.float64]:
    """Log shares of clicks, shape [items]; ties are ordered by row, as in the fallback list."""
    ordered = popularity + 0.5 - np.arange(len(popularity)) / (2.0 * len(popularity))
    shares: npt.NDArray[np.float64] = ordered / ordered.sum()
    return np.log(shares)


def _batches(index: IntArray, items: int) -> list[IntArray]:
    """Split indices of cases into batches with at most _MAX_SCORES scores."""
    rows = max(1, min(_ROWS, _MAX_SCORES // max(1, items)))
    return [index[start : start + rows] for start in range(0, len(index), rows)]


def _within_first(scores: FloatArray, k: int) -> IntArray:
    """Columns of the items with a pessimistic rank of at most k in some row of scores."""
    if scores.shape[1] <= k:
        return np.arange(scores.shape[1])
    next_best = torch.topk(torch.from_numpy(np.array(scores)), k + 1, dim=1).values[:, -1:]
    return np.flatnonzero((scores > next_best.numpy()).any(axis=0))
