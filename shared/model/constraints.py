"""Business rules: what no list may hold, and for one list its length and excluded items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nextclick.shared.model.checkpoint import Vocabulary
from nextclick.shared.windows import PADDING, IntArray


@dataclass(frozen=True, slots=True)
class Withheld:
    """The items that no list may hold, in terms of one model's catalogue."""

    item_ids: frozenset[str]
    """As they were given; the model may not know all of them."""
    mask: Tensor
    """Bool [items], on the scorer's device: True for items that are withheld."""
    any: bool
    """Whether one is."""

    @classmethod
    def nothing(cls, items: int, device: torch.device) -> Withheld:
        """Nothing is withheld from a catalogue of so many items."""
        return cls(frozenset(), torch.zeros(items, dtype=torch.bool, device=device), any=False)

    def changed_to(self, item_ids: frozenset[str], vocabulary: Vocabulary) -> Withheld:
        """The same for other item ids; takes time by what has changed."""
        mask = self.mask.clone()
        for changed, withheld in (
            (self.item_ids - item_ids, False),
            (item_ids - self.item_ids, True),
        ):
            rows = torch.from_numpy(vocabulary.rows(list(changed)))
            mask[(rows[rows != PADDING] - 1).to(mask.device)] = withheld
        return Withheld(item_ids, mask, any=bool(mask.any()))

    def apply(self, scores: Tensor) -> Tensor:
        """Set the scores [B, items] of withheld items to −inf, in place; returns `scores`."""
        return scores.masked_fill_(self.mask, -torch.inf) if self.any else scores


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


def most_popular(by_popularity: IntArray, constraint: Constraints, withheld: Withheld) -> IntArray:
    """The first k allowed columns of `by_popularity` (shape [items], the most popular first)."""
    masks = [withheld.mask] if withheld.any else []
    if constraint.excluded is not None:
        masks.append(constraint.excluded)
    if not masks:
        return by_popularity[: constraint.k]
    never = torch.stack(masks).any(dim=0).cpu().numpy()
    return by_popularity[np.flatnonzero(~never[by_popularity])[: constraint.k]]
