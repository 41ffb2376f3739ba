"""What a list may hold: how many items, which never, and whether any of the history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nextclick.shared.windows import PADDING, IntArray


@dataclass(frozen=True, slots=True)
class Constraints:
    """The business rules for one list, as rows of one model's catalogue.

    Scores stay what they are without rules: probabilities over the whole catalogue.
    """

    k: int
    """Items at most; fewer if the rules leave fewer."""
    excluded: Tensor | None = None
    """Shape [items], bool, on the scorer's device: True for what the list must not hold."""
    without_history: bool = False
    """Leave out what the history holds."""


def apply_constraints(
    scores: Tensor, batch: IntArray, constraints: Sequence[Constraints]
) -> Tensor:
    """Set to −inf, in place, what the choices leave out.

    scores: [B, items]; batch: the windows [B, HISTORY_LENGTH] that they belong to.
    """
    for row, window, constraint in zip(scores, batch, constraints, strict=True):
        if constraint.excluded is not None:
            row.masked_fill_(constraint.excluded, -torch.inf)
        if constraint.without_history:
            row[torch.from_numpy(window[window != PADDING] - 1).to(row.device)] = -torch.inf
    return scores


def most_popular(by_popularity: IntArray, constraint: Constraints) -> IntArray:
    """The first k of the columns `by_popularity` that a choice allows."""
    if constraint.excluded is None:
        return by_popularity[: constraint.k]
    allowed = ~constraint.excluded.cpu().numpy()[by_popularity]
    return by_popularity[np.flatnonzero(allowed)[: constraint.k]]
