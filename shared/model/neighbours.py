"""Item neighbours: which items are clicked near which, as plain counts. A network's memory.

Networks generalise, counts remember; each is right where the other is not (Ludewig & Jannach,
"Evaluation of Session-based Recommendation Algorithms", 2018, show how far counts alone go).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nextclick.shared.model.softmax import log_softmax
from nextclick.shared.windows import HISTORY_LENGTH

AGE_DECAY = 0.7
"""How much less each click back into the history counts."""


class ItemNeighbours(nn.Module):
    """For every item its likeliest neighbours, and how much their vote weighs against a model."""

    rows: Tensor
    """Shape [items + 1, K], int32: catalogue rows, PADDING where there are fewer than K."""
    shares: Tensor
    """Shape [items + 1, K]: what part of all that was clicked near an item each neighbour is. A row
    sums to 1, or to less where an item has more than K neighbours: it then knows less about where
    a session goes, and its vote counts less."""
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
        columns, votes = self.ballot(histories)
        result = torch.zeros(len(histories), len(self.rows) - 1, device=histories.device)
        return result.scatter_add_(1, columns, votes)

    def mix(self, logits: Tensor, histories: Tensor) -> Tensor:
        """Mix the votes into logits [B, items] of a network: log P(next click).

        Only voted columns change but for a constant, so that nothing costs a logarithm per item.
        """
        columns, votes = self.ballot(histories)
        mixed = log_softmax(logits).add_(self._rest(votes))
        of_network = mixed.gather(1, columns)
        # An item may be a neighbour of several clicks: the voted cells add its votes up.
        mixed.scatter_(1, columns, torch.zeros_like(votes))
        mixed.scatter_add_(1, columns, votes.mul_(self.weight))
        voted = torch.logaddexp(of_network, mixed.gather(1, columns).log_())
        return mixed.scatter_(1, columns, voted)

    def mixed(self, log_p: Tensor, votes: Tensor) -> Tensor:
        """log P(next click) of some columns, of which a network and the votes are given: [B, N].

        votes: every column that has a vote is among the N, so a row adds up to 1, or to 0 if no
        item of the window has neighbours.
        """
        return torch.logaddexp(log_p + self._rest(votes), (self.weight * votes).log())

    def ballot(self, histories: Tensor) -> tuple[Tensor, Tensor]:
        """Columns that are voted for, and the votes, both [B, L · K], for windows [B, L].

        A column can come several times, and column 0 with no votes where a neighbour is missing.
        The votes of a row add up to 1, or to 0 if no item of the window has neighbours.
        """
        batch, length = histories.shape
        clicks = histories.flatten()
        shares = self.shares.index_select(0, clicks).view(batch, length, -1)
        votes = shares.mul_(self.age_weights[-length:, None]).view(batch, -1)
        votes /= votes.sum(dim=1, keepdim=True).clamp_(min=1e-9)
        columns = self.rows.index_select(0, clicks).long().sub_(1).clamp_(min=0)
        return columns.view(batch, -1), votes

    def _rest(self, votes: Tensor) -> Tensor:
        """log of what part of the mixture is the network's: [B, 1]; all where nothing is voted."""
        return torch.where(votes.sum(dim=1, keepdim=True) > 0, torch.log1p(-self.weight), 0.0)
