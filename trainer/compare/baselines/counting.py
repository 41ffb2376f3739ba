"""Baselines from counts: popularity, co-occurrence and transitions."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from nextclick.shared.model import Vocabulary
from nextclick.shared.windows import HISTORY_LENGTH, PADDING, IntArray
from nextclick.trainer.compare.method import Scores
from nextclick.trainer.data import ClickLog, Samples, Sessions, sessions_of


class Popularity:
    """The most clicked items, for every history; ties are ordered by row."""

    name = "Popularity"

    def fit(self, log: ClickLog, vocabulary: Vocabulary, seed: int) -> None:
        """Count the clicks of each item."""
        self._shares = popularity_shares(log.counts(vocabulary))

    def score(self, cases: Samples) -> Scores:
        """Score by popularity rank: shape [B, items]."""
        return np.broadcast_to(self._shares, (len(cases), len(self._shares)))


class SessionPopularity:
    """Items of the current session by their count in it, then all others by popularity.

    The S-POP of Hidasi et al., Session-based Recommendations with Recurrent Neural Networks
    (ICLR 2016).
    """

    name = "Session popularity"

    def fit(self, log: ClickLog, vocabulary: Vocabulary, seed: int) -> None:
        """Count the clicks of each item; they also break ties within the session."""
        self._shares = popularity_shares(log.counts(vocabulary))

    def score(self, cases: Samples) -> Scores:
        """Score by count in the session plus a share below 1: shape [B, items]."""
        scores = np.repeat(self._shares[None, :], len(cases), axis=0)
        case, step = np.nonzero(cases.histories != PADDING)
        np.add.at(scores, (case, cases.histories[case, step] - 1), 1.0)
        return scores


class ItemKNN:
    """The most similar items to the last one, by damped cosine over sessions.

    As in Hidasi et al. (2016): similarity = sessions with both / √((n_i + damping)(n_j +
    damping)). The `neighbours` best are kept, without the item itself.
    """

    name = "Item-kNN"

    def __init__(self, neighbours: int = 100, damping: float = 20.0) -> None:
        self.neighbours = neighbours
        self.damping = damping

    def fit(self, log: ClickLog, vocabulary: Vocabulary, seed: int) -> None:
        """Count sessions with each item and with each pair of items."""
        sessions = sessions_of(log, vocabulary)
        shape = (len(sessions), len(vocabulary))
        incidence = sparse.csr_array(
            (np.ones(len(sessions.rows), np.float32), (sessions.number, sessions.rows - 1)), shape
        )
        incidence.sum_duplicates()
        incidence.data[:] = 1.0
        together = sparse.csr_array(incidence.T @ incidence)
        together.setdiag(0.0)
        together.eliminate_zeros()
        scale = 1.0 / np.sqrt(np.asarray(incidence.sum(axis=0)).ravel() + self.damping)
        cosine = sparse.diags_array(scale) @ together @ sparse.diags_array(scale)
        self._similar = _best_in_each_row(sparse.csr_array(cosine), self.neighbours)

    def score(self, cases: Samples) -> Scores:
        """Score by similarity to the last item: shape [B, items]."""
        return dense(self._similar[cases.histories[:, -1] - 1])


class Markov:
    """The followers of each of the last `steps` items, weighted by recency.

    Each step back multiplies an item's weight by `decay`; an item's followers share its weight
    according to `transitions`, with `reach` and `backward`. Ties are ordered by popularity. With
    steps = reach = 1 and backward = 0 it is a first-order Markov chain.
    """

    def __init__(
        self, name: str, steps: int, decay: float = 0.5, reach: int = 1, backward: float = 0.0
    ) -> None:
        self.name = name
        self.steps = steps
        self.decay = decay
        self.reach = reach
        self.backward = backward

    def fit(self, log: ClickLog, vocabulary: Vocabulary, seed: int) -> None:
        """Count the transitions between items."""
        sessions = sessions_of(log, vocabulary)
        self._follows = transitions(sessions, len(vocabulary), self.reach, self.backward)
        self._tie_break = popularity_tie_break(log, vocabulary)

    def score(self, cases: Samples) -> Scores:
        """Score by the weighted mean of the last items' followers: shape [B, items]."""
        newest = cases.histories[:, HISTORY_LENGTH - self.steps :]
        case, step = np.nonzero(newest != PADDING)
        weight = self.decay ** (self.steps - 1 - step.astype(np.float32))
        shape = (len(cases), self._follows.shape[0])
        weights = sparse.csr_array((weight, (case, newest[case, step] - 1)), shape)
        return dense(weights @ self._follows) + self._tie_break


def transitions(
    sessions: Sessions, items: int, reach: int = 1, backward: float = 0.0
) -> sparse.csr_array:
    """Shares of the items that follow each item: shape [items, items], rows sum to 1 or 0.

    The d-th click after an item counts 1/d, up to d = `reach` (the sequential rules of Ludewig
    and Jannach, Evaluation of Session-based Recommendation Algorithms, 2018). The clicks before it
    count `backward` times as much, because many pairs are clicked in either order, and on sparse
    data this helps more than the order.
    """
    place = np.arange(len(sessions.rows))
    counts = sparse.csr_array((items, items), dtype=np.float32)
    for distance in range(1, reach + 1):
        later = place[place - distance >= sessions.starts]
        pair = (sessions.rows[later - distance] - 1, sessions.rows[later] - 1)
        ones = np.full(len(later), 1.0 / distance, np.float32)
        counts = counts + sparse.csr_array((ones, pair), (items, items))
    if backward:
        counts = counts + np.float32(backward) * counts.T
    totals = np.asarray(counts.sum(axis=1)).ravel()
    scale = np.divide(1.0, totals, out=np.zeros_like(totals), where=totals > 0)
    return sparse.csr_array(sparse.diags_array(scale) @ counts)


def popularity_shares(counts: IntArray) -> Scores:
    """Map click counts [items] to distinct numbers in (0, 1) in the same order, ties by row.

    Distinct, because a tied target ranks behind all items that it ties with.
    """
    shares = np.empty(len(counts), np.float32)
    shares[np.argsort(-counts, kind="stable")] = np.linspace(1.0, 0.0, len(counts) + 2)[1:-1]
    return shares


def popularity_tie_break(log: ClickLog, vocabulary: Vocabulary) -> Scores:
    """Numbers below 1e-6, shape [items], to add to scores, so that popularity breaks ties."""
    return np.float32(1e-6) * popularity_shares(log.counts(vocabulary))


def dense(scores: sparse.csr_array) -> Scores:
    """Sparse scores as a dense array [B, items]; missing entries are 0."""
    return np.asarray(scores.toarray(), np.float32)


def _best_in_each_row(matrix: sparse.csr_array, count: int) -> sparse.csr_array:
    """Keep the `count` largest entries of each row; among ties, the lower columns."""
    row = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    order = np.lexsort((matrix.indices, -matrix.data, row))
    kept = order[np.arange(len(order)) - matrix.indptr[row] < count]
    return sparse.csr_array((matrix.data[kept], (row[kept], matrix.indices[kept])), matrix.shape)
