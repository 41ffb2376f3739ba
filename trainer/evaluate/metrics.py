"""How good a ranking is: HR@k, NDCG@k, MRR@k over the full catalogue, and AUC.

One code path for the gate, the manifests and `nextclick evaluate`: `evaluate` ranks cases in
batches of bounded memory and keeps the rank of each, so that two methods can be compared case by
case. Ranks are pessimistic: a target that ties with other items stands behind all of them, so a
constant or collapsed model scores nothing. Scores that are not numbers are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from nextclick.shared.errors import CheckpointError
from nextclick.shared.model import Checkpoint, Scorer
from nextclick.shared.windows import PADDING, IntArray
from nextclick.trainer.data import Samples, sample_negatives

FloatArray = npt.NDArray[np.floating[Any]]
Score = Callable[[Samples], FloatArray]
"""Cases with a known item in the history → scores of the catalogue, shape [B, items]."""

METRICS = ("hr@5", "hr@10", "hr@20", "mrr@20", "ndcg@10")
COVERED = 20
"""Length of the lists whose union is the catalogue coverage."""
MISS = np.iinfo(np.int64).max
"""Rank of a target that the model cannot name."""

_ROWS = 1024
_CELLS = 16_000_000
"""Scores held at once: 64 MB of float32, whatever the size of the catalogue."""


@dataclass(frozen=True)
class Evaluation:
    """Outcome of ranking the catalogue for M cases."""

    ranks: IntArray
    """Shape [M], 1 = first; MISS if the item is not in the catalogue."""
    auc: float
    """P(the target's score beats that of a random other item), ties half, over all cases."""
    auc_error: float = float("nan")
    """Standard error of the AUC over cases."""
    covered: npt.NDArray[np.bool_] | None = None
    """Shape [items]: which items are in anybody's first COVERED; None if it was not asked."""

    def hits(self, k: int = 10) -> npt.NDArray[np.float64]:
        """Shape [M]: 1.0 where the target is among the first k."""
        return (self.ranks <= k).astype(np.float64)

    def per_case(self, metric: str) -> npt.NDArray[np.float64]:
        """Shape [M]: what each case adds to the mean that is `metric`, one of METRICS."""
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
        """The named means that manifests and reports carry."""
        means = {metric: float(self.per_case(metric).mean()) for metric in METRICS}
        return {"cases": float(len(self.ranks)), **means, "auc": self.auc}


def discounted_gain(ranks: IntArray) -> npt.NDArray[np.float64]:
    """1/log₂(1 + rank): its mean is NDCG, without a cut."""
    gain: npt.NDArray[np.float64] = 1.0 / np.log2(1.0 + ranks)
    return gain


def ranks_of(scores: FloatArray, targets: IntArray) -> IntArray:
    """Pessimistic rank of each target row (1-based column) in its row of scores [B, items]."""
    if not np.isfinite(scores).all():
        raise CheckpointError("the model gave scores that are not finite numbers")
    named = targets != PADDING
    own = np.take_along_axis(scores, np.where(named, targets - 1, 0)[:, None], axis=1)
    return np.where(named, (scores >= own).sum(axis=1), MISS)


def auc_with_error(positive: FloatArray, negative: FloatArray) -> tuple[float, float]:
    """Area under the ROC curve, and its standard error where row i of both is one case.

    The error is that of DeLong et al., Comparing the Areas under Two or More Correlated ROC
    Curves (Biometrics 1988), from the share of the other side that each score beats; NaN if
    the two are not of equal length.
    """
    if len(positive) == 0 or len(negative) == 0:
        return float("nan"), float("nan")
    wins = _share_below(positive, negative)
    auc = float(wins.mean())
    if len(positive) != len(negative) or len(positive) < 2:
        return auc, float("nan")
    influence = wins + (1.0 - _share_below(negative, positive))
    return auc, float(influence.std(ddof=1) / np.sqrt(len(influence)))


def _share_below(scores: FloatArray, others: FloatArray) -> npt.NDArray[np.float64]:
    """For each score the share of the others that are lower, equal ones counted half."""
    others = np.sort(others)
    below = np.searchsorted(others, scores, "left") + np.searchsorted(others, scores, "right")
    return below / (2.0 * len(others))


def evaluate(
    score: Score, popularity: IntArray, cases: Samples, *, coverage: bool = False
) -> Evaluation:
    """Rank the catalogue for every case.

    popularity: shape [items], click counts: they rank cases whose history holds no known item,
    as serving does, whatever the method. The AUC compares each target with one random other
    item: the same for every method.
    """
    items = len(popularity)
    fallback = popularity_scores(popularity)
    named = cases.targets != PADDING
    others = np.full(len(cases), PADDING, np.int64)
    if items > 1:
        rng = np.random.default_rng(0)
        others[named] = sample_negatives(cases.targets[named], 1, items, rng)[:, 0]
    ranks = np.full(len(cases), MISS, np.int64)
    pairs = np.zeros((2, len(cases)))
    covered = np.zeros(items, bool)
    known = (cases.histories != PADDING).any(axis=1, keepdims=True)[:, 0]
    for index in _batches(np.flatnonzero(known), items) + _batches(np.flatnonzero(~known), items):
        if known[index[0]]:
            scores = score(cases.take(index))
        else:
            scores = np.broadcast_to(fallback, (len(index), items))
        targets = cases.targets[index]
        ranks[index] = ranks_of(scores, targets)
        each = np.arange(len(index))
        pairs[:, index] = scores[each, targets - 1], scores[each, others[index] - 1]
        if coverage:
            covered[_within_first(scores, COVERED)] = True
    compared = others != PADDING
    auc, error = auc_with_error(pairs[0, compared], pairs[1, compared])
    return Evaluation(ranks, auc, error, covered if coverage else None)


def evaluate_model(checkpoint: Checkpoint, cases: Samples, device: torch.device) -> Evaluation:
    """Evaluate a checkpoint on cases in its own rows."""
    return evaluate(model_score(checkpoint, device), checkpoint.popularity, cases)


def model_score(checkpoint: Checkpoint, device: torch.device) -> Score:
    """The log-probabilities of a checkpoint, by the scorer that serves."""
    scorer = Scorer(checkpoint, device, top_k=1)
    return lambda cases: scorer.log_probabilities(cases.histories).cpu().numpy()


def evaluate_popularity(popularity: IntArray, cases: Samples) -> Evaluation:
    """Evaluate "the same most-clicked items for everybody"."""
    scores = popularity_scores(popularity)
    return evaluate(
        lambda part: np.broadcast_to(scores, (len(part), len(scores))), popularity, cases
    )


def popularity_scores(popularity: IntArray) -> npt.NDArray[np.float64]:
    """Log shares of clicks; equal counts ordered by row, as the fallback list serves them."""
    ordered = popularity + 0.5 - np.arange(len(popularity)) / (2.0 * len(popularity))
    shares: npt.NDArray[np.float64] = ordered / ordered.sum()
    return np.log(shares)


def _batches(index: IntArray, items: int) -> list[IntArray]:
    """Cut indices of cases so that the scores of a batch fit into _CELLS."""
    rows = max(1, min(_ROWS, _CELLS // max(1, items)))
    return [index[start : start + rows] for start in range(0, len(index), rows)]


def _within_first(scores: FloatArray, k: int) -> IntArray:
    """Columns of the items with a pessimistic rank of at most k in some row of scores."""
    if scores.shape[1] <= k:
        return np.arange(scores.shape[1])
    next_best = torch.topk(torch.from_numpy(np.array(scores)), k + 1, dim=1).values[:, -1:]
    return np.flatnonzero((scores > next_best.numpy()).any(axis=0))
