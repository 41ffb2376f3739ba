"""How good a ranking is: HR@k, NDCG@k, MRR@k over the full catalogue, and AUC.

Ranks are pessimistic: a target that ties with other items stands behind all of them, so a
constant or collapsed model scores nothing. Scores that are not numbers are refused.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from shared.checkpoint import Checkpoint
from shared.errors import CheckpointError
from shared.scorer import Scorer
from shared.windows import PADDING, IntArray
from trainer.dataset import Samples, sample_negatives

FloatArray = npt.NDArray[np.float64]

_BATCH = 1024
MISS = np.iinfo(np.int64).max
"""Rank of a target that the model cannot name."""


@dataclass(frozen=True)
class Evaluation:
    """Outcome of ranking the catalogue for M cases."""

    ranks: IntArray
    """Shape [M], 1 = first; MISS if the item is not in the catalogue."""
    auc: float
    """P(the target's score beats that of a random other item), ties half, over all cases."""

    def hits(self, k: int = 10) -> FloatArray:
        """Shape [M]: 1.0 where the target is among the first k."""
        return (self.ranks <= k).astype(np.float64)

    def metrics(self) -> dict[str, float]:
        """The named means that manifests and reports carry."""
        gains = 1.0 / np.log2(1.0 + np.minimum(self.ranks, 10**9))
        reciprocal = 1.0 / np.minimum(self.ranks, 10**9)
        return {
            "cases": float(len(self.ranks)),
            "hr@10": float(self.hits(10).mean()),
            "hr@20": float(self.hits(20).mean()),
            "ndcg@10": float((gains * self.hits(10)).mean()),
            "mrr@20": float((reciprocal * self.hits(20)).mean()),
            "auc": self.auc,
        }


def ranks_of(scores: FloatArray, targets: IntArray) -> IntArray:
    """Pessimistic rank of each target row (1-based column) in its row of scores [B, items]."""
    if not np.isfinite(scores).all():
        raise CheckpointError("the model gave scores that are not finite numbers")
    named = targets != PADDING
    own = np.take_along_axis(scores, np.where(named, targets - 1, 0)[:, None], axis=1)
    return np.where(named, (scores >= own).sum(axis=1), MISS)


def auc_of(positive: FloatArray, negative: FloatArray) -> float:
    """Area under the ROC curve by ranks (Mann-Whitney), ties counted half."""
    if len(positive) == 0 or len(negative) == 0:
        return float("nan")
    both = np.concatenate([positive, negative])
    values, inverse, counts = np.unique(both, return_inverse=True, return_counts=True)
    del values
    average_rank = np.cumsum(counts) - (counts - 1) / 2
    rank_sum = average_rank[inverse[: len(positive)]].sum()
    wins = rank_sum - len(positive) * (len(positive) + 1) / 2
    return float(wins / (len(positive) * len(negative)))


def evaluate_scores(scores: FloatArray, cases: Samples, seed: int = 0) -> Evaluation:
    """Evaluate a full score matrix [M, items]; the AUC's negatives are drawn with `seed`."""
    return _combine([(scores, cases.targets)], seed)


def evaluate_model(checkpoint: Checkpoint, cases: Samples, device: torch.device) -> Evaluation:
    """Evaluate a checkpoint on cases in its own rows.

    Windows without a known item are answered by popularity, as when serving.
    """
    scorer = Scorer(checkpoint, device, top_k=1)
    fallback = _popularity_scores(checkpoint.popularity)
    parts = []
    for start in range(0, len(cases), _BATCH):
        histories = cases.histories[start : start + _BATCH]
        scores = np.repeat(fallback[None, :], len(histories), axis=0)
        known = histories.any(axis=1)
        if known.any():
            scores[known] = scorer.log_probabilities(histories[known]).cpu().numpy()
        parts.append((scores, cases.targets[start : start + _BATCH]))
    return _combine(parts)


def evaluate_popularity(popularity: IntArray, cases: Samples) -> Evaluation:
    """Evaluate "the same most-clicked items for everybody"."""
    scores = _popularity_scores(popularity)
    parts = [
        (np.broadcast_to(scores, (len(targets), len(scores))), targets)
        for targets in np.array_split(cases.targets, max(1, len(cases) // _BATCH))
    ]
    return _combine(parts)


def _popularity_scores(popularity: IntArray) -> FloatArray:
    """Log shares of clicks; equal counts ordered by row, as the fallback list serves them."""
    ordered = popularity + 0.5 - np.arange(len(popularity)) / (2.0 * len(popularity))
    shares: FloatArray = ordered / ordered.sum()
    return np.log(shares)


def _combine(parts: list[tuple[FloatArray, IntArray]], seed: int = 0) -> Evaluation:
    rng = np.random.default_rng(seed)
    ranks, positive, negative = [], [], []
    for scores, targets in parts:
        ranks.append(ranks_of(scores, targets))
        named = targets[targets != PADDING]
        if len(named) and scores.shape[1] > 1:
            rows = scores[targets != PADDING]
            others = sample_negatives(named, 1, scores.shape[1], rng)[:, 0]
            each = np.arange(len(named))
            positive.append(rows[each, named - 1])
            negative.append(rows[each, others - 1])
    if not ranks:
        return Evaluation(np.zeros(0, np.int64), float("nan"))
    auc = auc_of(np.concatenate(positive), np.concatenate(negative)) if positive else float("nan")
    return Evaluation(np.concatenate(ranks), auc)
