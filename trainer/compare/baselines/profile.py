"""Baselines with user profiles, which ignore the current session.

They use the user's number only, so they need users who return.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor, nn
from torch.nn import functional

from nextclick.shared.errors import ConfigurationError
from nextclick.shared.model import Vocabulary
from nextclick.shared.windows import PADDING, IntArray
from nextclick.trainer.compare.baselines.counting import popularity_shares
from nextclick.trainer.compare.baselines.training import LAST_EPOCH_RATE, LAST_EPOCH_TIME, train
from nextclick.trainer.compare.method import Scores
from nextclick.trainer.data import ClickLog, Samples, Split, sample_negatives

FloatArray = npt.NDArray[np.float64]

_BATCH = 512
_LEARNING_RATE = 3e-3
_BLOCK_ELEMENTS = 8_388_608
"""Most numbers in memory at once while scoring."""

_TIE_BREAK = np.float32(1e-3)
"""Weight of popularity in LinUCB's scores, to break ties of items with the same features."""


class UserItemMLP:
    """A network of user and item embeddings: two hidden layers, one logit per pair.

    Neural collaborative filtering (He et al., WWW 2017), trained on clicks with uniformly sampled
    negatives. A user without clicks has the mean embedding of all users.
    """

    name = "User × item MLP"

    def __init__(
        self, negatives: int = 4, epochs: int = 20, max_seconds: float = 300.0, dim: int = 32
    ) -> None:
        self.negatives = negatives
        self.epochs = epochs
        self.max_seconds = max_seconds
        self.dim = dim

    def fit(self, log: ClickLog, vocabulary: Vocabulary, seed: int) -> None:
        """Train with early stopping, then one epoch on training and validation clicks.

        Raises ConfigurationError if no user returns.
        """
        deadline = time.monotonic() + self.max_seconds
        clicks = _Clicks(log, vocabulary, self.name)
        rng = np.random.default_rng(seed)
        held_out = self._labelled(clicks, clicks.split == Split.VALIDATION, rng)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self._network = _Network(clicks.users, len(vocabulary), self.dim)
            self._train(
                clicks,
                clicks.split == Split.TRAIN,
                (lambda: self._loss(*held_out).item()) if len(held_out[0]) else None,
                rng,
                epochs=self.epochs,
                learning_rate=_LEARNING_RATE,
                deadline=deadline - LAST_EPOCH_TIME * self.max_seconds,
            )
            if len(held_out[0]):
                self._train(
                    clicks,
                    clicks.split != Split.TEST,
                    None,
                    rng,
                    epochs=1,
                    learning_rate=LAST_EPOCH_RATE * _LEARNING_RATE,
                    deadline=deadline,
                )
        self._is_known = np.append(np.bincount(clicks.user, minlength=clicks.users) > 0, False)
        with torch.no_grad():
            users = self._network.user.weight
            users[-1] = users[torch.from_numpy(self._is_known)].mean(dim=0)

    def score(self, cases: Samples) -> Scores:
        """Score by the logit of (user, item): shape [B, items]."""
        users, case = _users(cases, self._is_known, self.name)
        with torch.inference_mode():
            logits = self._network.catalogue(torch.from_numpy(users)).numpy()
        return np.asarray(logits[case], np.float32)

    def _train(
        self,
        clicks: _Clicks,
        chosen: npt.NDArray[np.bool_],
        validation_loss: Callable[[], float] | None,
        rng: np.random.Generator,
        *,
        epochs: int,
        learning_rate: float,
        deadline: float,
    ) -> None:
        steps = -(-int(chosen.sum()) // _BATCH)

        def losses() -> Iterator[Tensor]:
            users, rows, labels = self._labelled(clicks, chosen, rng)
            for index in np.array_split(rng.permutation(len(rows)), steps):
                yield self._loss(users[index], rows[index], labels[index])

        train(
            self._network,
            losses,
            steps,
            validation_loss,
            learning_rate=learning_rate,
            epochs=epochs if steps else 0,
            patience=2,
            deadline=deadline,
        )

    def _labelled(
        self, clicks: _Clicks, chosen: npt.NDArray[np.bool_], rng: np.random.Generator
    ) -> tuple[IntArray, IntArray, Scores]:
        """Users, rows and labels, each of shape [N]: chosen clicks, and sampled negatives."""
        user, row = clicks.user[chosen], clicks.row[chosen]
        per_click = self.negatives if clicks.items > 1 else 0
        others = sample_negatives(row, per_click, max(clicks.items, 2), rng)
        rows = np.concatenate([row, others.ravel()])
        users = np.concatenate([user, np.repeat(user, per_click)])
        return users, rows, (np.arange(len(rows)) < len(row)).astype(np.float32)

    def _loss(self, users: IntArray, rows: IntArray, labels: Scores) -> Tensor:
        logits = self._network(torch.from_numpy(users), torch.from_numpy(rows))
        return functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(labels))


class _Network(nn.Module):
    """The network; its first layer is linear, so user and item halves are computed separately."""

    def __init__(self, users: int, items: int, dim: int) -> None:
        super().__init__()
        self.user = nn.Embedding(users + 1, dim)  # the last row is the mean user
        self.item = nn.Embedding(items + 1, dim)
        for table in (self.user, self.item):
            nn.init.normal_(table.weight, std=0.1)
        self.user_half = nn.Linear(dim, 64)
        self.item_half = nn.Linear(dim, 64, bias=False)
        self.rest = nn.Sequential(nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, users: Tensor, rows: Tensor) -> Tensor:
        """Logits [...] of pairs of users [...] and rows [...]."""
        hidden = self.user_half(self.user(users)) + self.item_half(self.item(rows))
        logits: Tensor = self.rest(hidden).squeeze(-1)
        return logits

    def catalogue(self, users: Tensor) -> Tensor:
        """Logits [U, items] of all items for users [U]."""
        of_user = self.user_half(self.user(users))[:, None]
        of_item = self.item_half(self.item.weight[1:])
        block = max(1, _BLOCK_ELEMENTS // of_item.numel())
        parts = [self.rest(part + of_item).squeeze(-1) for part in of_user.split(block)]
        return torch.cat(parts)


class LinUCB:
    """One ridge regression per user on item features, with an upper confidence bound.

    Disjoint LinUCB (Li et al., A Contextual-Bandit Approach, WWW 2010), with one model per user:
    reward 1 for a click, 0 for uniformly sampled items, because the log lacks impressions. Score =
    x·θ + α √(xᵀ A⁻¹ x). A user without clicks has the mean observations of all users.
    """

    name = "LinUCB"

    def __init__(
        self,
        alpha: float = 0.1,
        ridge: float = 1.0,
        negatives: int = 1,
        dim: int = 16,
    ) -> None:
        """alpha: exploration; ridge: regularisation; negatives: sampled items per click.

        dim: number of leading directions of the user × item counts. The features of an item are
        its coordinates in these, and a constant.
        """
        self.alpha = alpha
        self.ridge = ridge
        self.negatives = negatives
        self.dim = dim

    def fit(self, log: ClickLog, vocabulary: Vocabulary, seed: int) -> None:
        """Count each user's clicks and sampled items; `score` solves the regressions.

        Raises ConfigurationError if no user returns.
        """
        clicks = _Clicks(log, vocabulary, self.name)
        rng = np.random.default_rng(seed)
        shape = (clicks.users, clicks.items)
        per_click = self.negatives if clicks.items > 1 else 0
        others = sample_negatives(clicks.row, per_click, max(clicks.items, 2), rng).ravel()
        clicked = _counts(clicks.user, clicks.row, shape)
        offered = clicked + _counts(np.repeat(clicks.user, per_click), others, shape)
        self._clicked, self._offered = _with_mean_row(clicked), _with_mean_row(offered)
        self._is_known = np.append(np.bincount(clicks.user, minlength=clicks.users) > 0, False)
        self._x = _leading_directions(clicked, self.dim, rng)
        d = self._x.shape[1]
        self._tie_break = _TIE_BREAK * popularity_shares(log.counts(vocabulary))
        self._outer = (self._x[:, :, None] * self._x[:, None, :]).reshape(clicks.items, d * d)

    def score(self, cases: Samples) -> Scores:
        """Score by the upper confidence bound of (user, item): shape [B, items]."""
        users, case = _users(cases, self._is_known, self.name)
        d = self._x.shape[1]
        A = (self._offered[users] @ self._outer).reshape(-1, d, d) + self.ridge * np.eye(d)
        A_inverse = np.linalg.inv(A)
        theta = np.einsum("uij,uj->ui", A_inverse, self._clicked[users] @ self._x)
        variance = A_inverse.reshape(-1, d * d) @ self._outer.T
        bound = theta @ self._x.T + self.alpha * np.sqrt(np.maximum(variance, 0.0))
        return np.asarray((bound + self._tie_break)[case], np.float32)


class _Clicks:
    """User, item and split of each click outside the test split."""

    def __init__(self, log: ClickLog, vocabulary: Vocabulary, method: str) -> None:
        """Raise ConfigurationError if no user has two sessions, or clicks in both splits."""
        rows = vocabulary.rows(log.item_ids)[log.items] if len(log.items) else log.items
        kept = np.flatnonzero((log.split != Split.TEST) & (rows != PADDING))
        self.user, self.row, self.split = log.users[kept], rows[kept], log.split[kept]
        self.users, self.items = len(log.user_ids), len(vocabulary)
        visits = np.unique(np.stack([self.user, log.starts[kept], self.split]), axis=1)[0]
        if (np.bincount(visits) < 2).all():
            raise ConfigurationError(
                f"{method} needs users who return, but in this data every user has one session; "
                "leave the method out"
            )


def _users(
    cases: Samples, is_known: npt.NDArray[np.bool_], method: str
) -> tuple[IntArray, IntArray]:
    """The distinct users of the cases, and each case's index among them; unknown: the last row."""
    if cases.users is None:
        raise ConfigurationError(f"{method} needs to know the user of each case")
    mean_user = len(is_known) - 1
    inside = np.clip(cases.users, 0, mean_user)
    return np.unique(np.where(is_known[inside], inside, mean_user), return_inverse=True)


def _counts(users: IntArray, rows: IntArray, shape: tuple[int, int]) -> sparse.csr_array:
    return sparse.csr_array((np.ones(len(users)), (users, rows - 1)), shape)


def _with_mean_row(counts: sparse.csr_array) -> sparse.csr_array:
    active = max(1, int((counts.sum(axis=1) > 0).sum()))
    mean = np.asarray(counts.sum(axis=0)).reshape(1, -1) / active
    return sparse.csr_array(sparse.vstack([counts, sparse.csr_array(mean)]))


def _leading_directions(counts: sparse.csr_array, dim: int, rng: np.random.Generator) -> FloatArray:
    """Item features [items, dim + 1]: a constant, and leading directions of user × item counts.

    Counts are divided by √(user's clicks × item's clicks). Directions are weighted by their squared
    singular values, so that those of few clicks count little, and scaled to a mean square length of
    1. By randomised subspace iteration (Halko, Martinsson and Tropp, SIAM Review 2011).
    """
    items = counts.shape[1]
    of_user, of_item = (np.asarray(counts.sum(axis=axis)).ravel() + 1.0 for axis in (1, 0))
    scaled = sparse.diags_array(of_user**-0.5) @ counts @ sparse.diags_array(of_item**-0.5)
    basis = rng.standard_normal((items, min(dim + 8, items)))
    for _ in range(4):
        basis, _ = np.linalg.qr(scaled.T @ (scaled @ basis))
    _, singular, rotation = np.linalg.svd(scaled @ basis, full_matrices=False)
    directions = (basis @ rotation[:dim].T) * singular[:dim] ** 2
    directions /= max(1e-12, np.sqrt((directions**2).sum(axis=1).mean()))
    return np.concatenate([np.ones((items, 1)), directions], axis=1)
