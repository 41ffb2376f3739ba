"""The categories of the catalogue as masks over a model's items. Pure."""

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

    catalogue: Catalogue = field(default_factory=Catalogue)

    def constraints(
        self, scorer: Scorer, k: int, without_history: bool, category: str | None
    ) -> Constraints:
        """The constraints of one list by this model; category: None for all items."""
        return Constraints(k, self._excluded(scorer, category), without_history)

    def _excluded(self, scorer: Scorer, category: str | None) -> Tensor | None:
        if category is None:
            return None
        masks = self._masks.setdefault(scorer, {})
        if category not in masks:
            if len(masks) * len(scorer.vocabulary) > _MASK_BYTES:
                masks.clear()
            masks[category] = self._mask(scorer, category)
        return masks[category]

    def _mask(self, scorer: Scorer, category: str) -> Tensor:
        mask = torch.ones(len(scorer.vocabulary), dtype=torch.bool)
        items = self.catalogue.categories.get(category, frozenset())
        rows = torch.from_numpy(scorer.vocabulary.rows(sorted(items)))
        mask[rows[rows > 0] - 1] = False
        return mask.to(scorer.device)

    _masks: WeakKeyDictionary[Scorer, dict[str, Tensor]] = field(
        default_factory=WeakKeyDictionary, compare=False, repr=False
    )
    """Scorer → category → mask. Masks are computed on first use and dropped with the model."""
