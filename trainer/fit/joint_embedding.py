"""Item vectors of two parts, which a fit trains jointly: the item's own, and that of its content.

vector = trust · own + content. An item without a training click has no own part: its vector is its
content. One with many clicks has learned what its content does not say; trust grows with them. So
that content alone carries, the own part is left out at random in training, as in DropoutNet
(Volkovs et al., "DropoutNet: Addressing Cold Start in Recommender Systems", 2017).

Nobody could click an item before it was there. So it is a negative (`negative_samples`) in as large
a share of the steps as the log has clicks since its first one; without a click it is none.

After a fit both are one row of the item embedding again: see `fold`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse
import torch
from torch import Tensor, nn
from torch.nn import functional

from nextclick.shared.model import BST
from nextclick.shared.model.content import PRICE_BOUNDS, ContentEncoder, ItemFeatures
from nextclick.shared.windows import IntArray
from nextclick.trainer.data import Sessions

FloatArray = npt.NDArray[np.floating[Any]]
Mask = npt.NDArray[np.bool_]

TRUSTED_CLICKS = 10.0
"""Evidence with which the own part has half of its say."""
OWN_DROPOUT = 0.2
"""P(the own part of an item is left out), for each place at which a training step uses it."""
_LEAST_TRUST = 0.01
_RIDGE = 1.0
"""Penalty of the regression from which the embeddings of features start."""
_STEPS = 30
"""Of the conjugate gradients that solve it."""


class JointEmbedding(nn.Module):
    """Stands in for the item embedding of a network during a fit."""

    trust: Tensor

    def __init__(
        self, own: nn.Embedding, encoder: ContentEncoder, features: ItemFeatures, trust: Tensor
    ) -> None:
        """features, trust: of rows 0, 1, …; row 0 is padding and has no features."""
        super().__init__()
        self.own = own
        self.encoder = encoder
        self.register_buffer("trust", trust[:, None], persistent=False)
        self._features = features

    @property
    def weight(self) -> Tensor:
        """The vectors of all rows, [items + 1, d]."""
        self._features = self._features.to(self.own.weight.device)
        vectors: Tensor = self.trust * self.own.weight + self.encoder(self._features)
        return vectors

    def forward(self, rows: Tensor) -> Tensor:
        """Vectors [..., d] of rows [...], before they are scaled to length 1."""
        self._features = self._features.to(rows.device)
        features = self._features.take(rows.flatten())
        content = self.encoder(features).view(*rows.shape, -1)
        own = self.trust[rows] * self.own(rows)
        if self.training:
            drawn = torch.rand(rows.shape, device=rows.device) < OWN_DROPOUT
            has_content = (features.counts > 0).view(rows.shape)
            own = own.masked_fill((drawn & has_content).unsqueeze(-1), 0.0)
        vectors: Tensor = own + content
        return vectors


def join(
    model: BST,
    features: ItemFeatures,
    evidence: FloatArray,
    cold: Mask,
    trained: int,
    *,
    fresh: bool,
) -> None:
    """Split the item vectors of a model with a content encoder into both parts.

    features: as of JointEmbedding. evidence: shape [items], as of `click_evidence`. cold: shape
    [items], items that have nothing but their content, which becomes their vector. trained: the
    vectors of so many first items come from a champion, and stay as they are unless cold; the
    others start between their content and where their clicks put them. fresh: the encoder is not
    trained yet; its embeddings start where they explain the vectors of the items with most evidence
    best.
    """
    encoder, own = model.content, model.network.item_embedding
    assert encoder is not None
    with torch.no_grad():
        shares, vectors = evidence / (evidence + TRUSTED_CLICKS), own.weight[1:]
        if fresh:
            encoder.embedding.copy_(_explaining(vectors, features, shares, encoder.buckets))
        trust = torch.from_numpy(shares).float().clamp(min=_LEAST_TRUST)
        trust[features.counts[1:] == 0] = 1.0
        parts = vectors - encoder(features)[1:]
        parts[:trained] /= trust[:trained, None]
        parts[torch.from_numpy(cold)] = 0.0
        own.weight[1:] = parts
    joint = JointEmbedding(own, encoder, features, functional.pad(trust, (1, 0)))
    model.network.item_embedding = joint  # type: ignore[assignment]


def fold(model: BST) -> None:
    """Make both parts one row of the item embedding, after a fit."""
    joint = model.network.item_embedding
    if isinstance(joint, JointEmbedding):
        with torch.no_grad():
            joint.own.weight.copy_(joint.weight)
        model.network.item_embedding = joint.own


def since_first_click(sessions: Sessions, items: int) -> FloatArray:
    """The share of all clicks that came since an item's first one: shape [items], 0 without any."""
    count = len(sessions.rows)
    first = np.full(items, count)
    np.minimum.at(first, sessions.rows - 1, np.arange(count))
    return (count - first) / max(1, count)


def click_evidence(clicks: IntArray, since_first: FloatArray) -> FloatArray:
    """How much is known of each item by its clicks: shape [items], 0 without a click.

    Its clicks, or as many as items have on average since its first one, if that is more: that few
    clicked what has been there for long says something, too. clicks, since_first: shape [items].
    """
    usual = clicks.sum() / max(1, np.count_nonzero(clicks))
    more: FloatArray = np.maximum(clicks, since_first * usual)
    return more


def price_bounds(prices: Sequence[float]) -> Tensor:
    """Quantiles that part prices into equally large buckets: shape [PRICE_BOUNDS]."""
    shares = np.arange(1, PRICE_BOUNDS + 1) / (PRICE_BOUNDS + 1)
    bounds = np.quantile(prices, shares) if len(prices) else np.zeros(PRICE_BOUNDS)
    return torch.from_numpy(bounds.astype(np.float32))


def _explaining(vectors: Tensor, features: ItemFeatures, trust: FloatArray, buckets: int) -> Tensor:
    """Embeddings [buckets + 1, d] of features whose sums come closest to vectors [items, d].

    Ridge regression with the weights `trust` of items, by conjugate gradients for all dimensions at
    once.
    """
    bounds, trust = features.bounds.numpy(), np.sqrt(trust)
    table = scipy.sparse.csr_matrix(
        (features.weights.numpy(), features.buckets.numpy(), bounds), (len(features), buckets + 1)
    )[1:]
    weighted = (scipy.sparse.diags(trust) @ table).tocsr()
    transposed = weighted.T.tocsr()
    solution = np.zeros((buckets + 1, vectors.shape[1]))
    residual = transposed @ (trust[:, None] * vectors.numpy())
    direction, square = residual.copy(), (residual**2).sum(axis=0)
    for _ in range(_STEPS):
        image = transposed @ (weighted @ direction) + _RIDGE * direction
        step = square / np.maximum((direction * image).sum(axis=0), 1e-30)
        solution += step * direction
        residual -= step * image
        before, square = square, (residual**2).sum(axis=0)
        direction = residual + square / np.maximum(before, 1e-30) * direction
    return torch.from_numpy(solution.astype(np.float32))
