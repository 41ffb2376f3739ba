"""A content encoder: vectors of items from what a shop says about them.

An item's content vector is the weighted sum of its features' embeddings (shared/item_features.py).
Trained jointly with a network (trainer/fit/joint_embedding.py), it gives an item without a click a
place among the others. What is served has both parts of an item's vector in one row, so serving
needs no encoder; a checkpoint keeps it for items to come, and for the next retraining.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from nextclick.shared.item_features import ItemContent, features_of

BUCKETS = 16_384
"""Of hashed features. With 10,000 different ones a quarter share their bucket with another."""
PRICE_BOUNDS = 15
"""Bounds between buckets of prices, of which there is one more."""


@dataclass(frozen=True, eq=False)
class ItemFeatures:
    """The features of N items, one item after the other."""

    buckets: Tensor
    """Shape [F], int64, from 1."""
    weights: Tensor
    """Shape [F], float32."""
    bounds: Tensor
    """Shape [N + 1]: those of item i are from bounds[i] to bounds[i + 1]."""

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @property
    def counts(self) -> Tensor:
        """Shape [N]: features of each item."""
        return self.bounds.diff()

    def take(self, index: Tensor) -> ItemFeatures:
        """Those of the items at `index` [M], in that order."""
        counts = self.counts[index]
        bounds = functional.pad(counts.cumsum(0), (1, 0))
        first = self.bounds[index] - bounds[:-1]
        places = torch.arange(int(bounds[-1]), device=bounds.device)
        places = places + first.repeat_interleave(counts)
        return ItemFeatures(self.buckets[places], self.weights[places], bounds)

    def to(self, device: torch.device) -> ItemFeatures:
        """The same on a device."""
        moved = (tensor.to(device) for tensor in (self.buckets, self.weights, self.bounds))
        return ItemFeatures(*moved)


class ContentEncoder(nn.Module):
    """See the module docstring."""

    price_bounds: Tensor
    """Shape [PRICE_BOUNDS], ascending."""

    def __init__(self, buckets: int, dimensions: int) -> None:
        super().__init__()
        self.buckets = buckets
        self.embedding = nn.Parameter(torch.zeros(buckets + 1, dimensions))
        """Row 0 is no feature's."""
        self.register_buffer("price_bounds", torch.zeros(PRICE_BOUNDS))

    def features(self, contents: Sequence[ItemContent | None]) -> ItemFeatures:
        """The features of items, on the CPU; None: nothing is known of an item."""
        bounds = self.price_bounds.tolist()
        each = [[] if c is None else features_of(c, bounds, self.buckets) for c in contents]
        pairs = [pair for features in each for pair in features]
        return ItemFeatures(
            torch.tensor([bucket for bucket, _ in pairs], dtype=torch.int64),
            torch.tensor([weight for _, weight in pairs], dtype=torch.float32),
            torch.from_numpy(np.cumsum([0, *map(len, each)])),
        )

    def forward(self, features: ItemFeatures) -> Tensor:
        """Content vectors [N, dimensions] of N items; zeros for one without features."""
        return functional.embedding_bag(
            features.buckets,
            self.embedding,
            features.bounds,
            mode="sum",
            per_sample_weights=features.weights,
            include_last_offset=True,
        )
