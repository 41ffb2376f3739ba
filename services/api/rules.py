"""Business rules as masks over a model's catalogue. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from nextclick.services.api.catalogue import Catalogue
from nextclick.shared.model import Constraints, Scorer

_MASK_BYTES = 64_000_000
"""About the most memory for the masks of one model."""


@dataclass(frozen=True)
class Rules:
    """An immutable snapshot of the rules."""

    denied: frozenset[str] = frozenset()
    catalogue: Catalogue = field(default_factory=Catalogue)

    def constraints(
        self, scorer: Scorer, k: int, without_history: bool, category: str | None
    ) -> Constraints:
        """The constraints of one list by this model; category: None for all items."""
        return Constraints(k, self._excluded(scorer, category), without_history)

    def _excluded(self, scorer: Scorer, category: str | None) -> Tensor | None:
        if category is None and not self.denied:
            return None
        masks = self._masks.setdefault(scorer, {})
        if category not in masks:
            if len(masks) * len(scorer.vocabulary) > _MASK_BYTES:
                masks.clear()
            masks[category] = self._mask(scorer, category)
        return masks[category]

    def _mask(self, scorer: Scorer, category: str | None) -> Tensor:
        mask = torch.zeros(len(scorer.vocabulary), dtype=torch.bool)
        if category is not None:
            mask[:] = True
            mask[_columns(scorer, self.catalogue.categories.get(category, frozenset()))] = False
        mask[_columns(scorer, self.denied)] = True
        return mask.to(scorer.device)

    _masks: WeakKeyDictionary[Scorer, dict[str | None, Tensor]] = field(
        default_factory=WeakKeyDictionary, compare=False, repr=False
    )
    """Scorer → category → mask. Masks are computed on first use and dropped with the model."""


def _columns(scorer: Scorer, items: frozenset[str]) -> Tensor:
    rows = torch.from_numpy(scorer.vocabulary.rows(sorted(items)))
    return rows[rows > 0] - 1
