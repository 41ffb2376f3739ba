"""Item neighbours: which items are clicked near which, as plain counts. A network's memory.

Networks generalise, counts remember; each is right where the other is not (Ludewig & Jannach,
"Evaluation of Session-based Recommendation Algorithms", 2018, show how far counts alone go).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from shared.windows import HISTORY_LENGTH, PADDING

AGE_DECAY = 0.7
"""How much less each click back into the history counts."""


class ItemNeighbours(nn.Module):
    """For every item its likeliest neighbours, and how much their vote weighs against a model."""

    rows: Tensor
    """Shape [items + 1, K], int32: catalogue rows, PADDING where there are fewer than K."""
    shares: Tensor
    """Shape [items + 1, K]: each row's shares sum to 1, or to 0 for an item without neighbours."""
    weight: Tensor
    """Scalar in [0, 1): the votes' part in the mixture."""
    age_weights: Tensor

    def __init__(self, items: int, per_item: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(items + 1, per_item, dtype=torch.int32))
        self.register_buffer("shares", torch.zeros(items + 1, per_item))
        self.register_buffer("weight", torch.zeros(()))
        ages = torch.arange(HISTORY_LENGTH - 1, -1, -1)
        self.register_buffer("age_weights", AGE_DECAY**ages, persistent=False)

    def votes(self, histories: Tensor) -> Tensor:
        """P(next click) by the neighbours of windows [B, HISTORY_LENGTH] alone: [B, items].

        A row of zeros where no item of the window has neighbours.
        """
        return self._votes(histories, self._age_weights(histories))[:, 1:]

    def mix(self, logits: Tensor, histories: Tensor) -> Tensor:
        """Mix the votes into logits [B, items] of a network: log P(next click).

        Only voted columns change but for a constant, so that nothing costs a logarithm per item.
        """
        weights = self._age_weights(histories)
        rest = torch.where(weights.any(dim=1, keepdim=True), torch.log1p(-self.weight), 0.0)
        mixed = logits - (torch.logsumexp(logits, dim=1, keepdim=True) - rest)
        # Padding among the neighbours stands for row 1 here: it gets what is right for row 1.
        columns = (self.rows[histories].long().flatten(1) - 1).clamp(min=0)
        votes = self._votes(histories, weights).gather(1, columns + 1)
        voted = torch.logaddexp(mixed.gather(1, columns), (self.weight * votes).log())
        return mixed.scatter_(1, columns, voted)

    def _age_weights(self, histories: Tensor) -> Tensor:
        """How much each click's neighbours count, [B, HISTORY_LENGTH]: they add up to 1, or 0."""
        has_neighbours = (histories != PADDING) & (self.rows[histories, 0] != PADDING)
        weights = self.age_weights * has_neighbours
        return weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-9)

    def _votes(self, histories: Tensor, weights: Tensor) -> Tensor:
        """[B, items + 1], by catalogue row."""
        votes = self.shares[histories] * weights.unsqueeze(-1)
        result = torch.zeros(len(histories), len(self.rows), device=histories.device)
        columns = self.rows[histories].long().flatten(1)
        return result.scatter_add_(1, columns, votes.flatten(1))
