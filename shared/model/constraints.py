"""Business rules for a list: its length, excluded items, and whether the history is left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nextclick.shared.windows import PADDING, IntArray


@dataclass(frozen=True, slots=True)
class Constraints:
    """The business rules for one list, in terms of one model's catalogue.

    Rules do not change scores: these remain probabilities over the whole catalogue.
    """

    k: int
    """The longest list; it is shorter if the rules leave fewer items."""
    excluded: Tensor | None = None
    """Bool [items], on the scorer's device: True for items that the list must not hold."""
    without_history: bool = False
    """Leave out the items of the history."""


def apply_constraints(
    scores: Tensor, batch: IntArray, constraints: Sequence[Constraints]
) -> Tensor:
    """Set the scores of items that the constraints exclude to −inf, in place.

    scores: [B, items]; batch: their windows [B, HISTORY_LENGTH]; constraints: one per window.
    Returns `scores`.
    """
    for row, window, constraint in zip(scores, batch, constraints, strict=True):
        if constraint.excluded is not None:
            row.masked_fill_(constraint.excluded, -torch.inf)
        if constraint.without_history:
            row[torch.from_numpy(window[window != PADDING] - 1).to(row.device)] = -torch.inf
    return scores


def most_popular(by_popularity: IntArray, constraint: Constraints) -> IntArray:
    """The first k allowed columns of `by_popularity` (shape [items], the most popular first)."""
    if constraint.excluded is None:
        return by_popularity[: constraint.k]
    allowed = ~constraint.excluded.cpu().numpy()[by_popularity]
    return by_popularity[np.flatnonzero(allowed)[: constraint.k]]
