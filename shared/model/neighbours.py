"""Item neighbours: co-click counts that are mixed with the predictions of a network.

A network generalises, counts memorise, and they make different errors (Ludewig & Jannach,
"Evaluation of Session-based Recommendation Algorithms", 2018, show how good counts alone are).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nextclick.shared.model.softmax import log_softmax
from nextclick.shared.windows import HISTORY_LENGTH

AGE_DECAY = 0.7
"""Factor on the vote of a click for each click that came after it."""


class ItemNeighbours(nn.Module):
    """The K likeliest neighbours of every item, and the weight of their votes in the mixture."""

    rows: Tensor
    """Shape [items + 1, K], int32: catalogue rows, PADDING where there are fewer than K."""
    shares: Tensor
    """Shape [items + 1, K]: each neighbour's share of all clicks near the item. A row sums to 1, or
    to less for an item with more than K neighbours; the votes of such an item count less."""
    weight: Tensor
    """Scalar in [0, 1): weight of the votes in the mixture."""
    age_weights: Tensor

    def __init__(self, items: int, per_item: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(items + 1, per_item, dtype=torch.int32))
        self.register_buffer("shares", torch.zeros(items + 1, per_item))
        self.register_buffer("weight", torch.zeros(()))
        ages = torch.arange(HISTORY_LENGTH - 1, -1, -1)
        self.register_buffer("age_weights", AGE_DECAY**ages, persistent=False)

    def mix(self, logits: Tensor, histories: Tensor) -> Tensor:
        """Mix the votes into logits [B, items] of a network: log P(next click), [B, items].

        Columns without votes change by one constant per row, so they need no logarithm each.
        """
        columns, votes = self.sparse_votes(histories)
        mixed = log_softmax(logits).add_(self._rest(votes))
        of_network = mixed.gather(1, columns)
        # An item may be a neighbour of several clicks: sum its votes in its cell.
        mixed.scatter_(1, columns, torch.zeros_like(votes))
        mixed.scatter_add_(1, columns, votes.mul_(self.weight))
        voted = torch.logaddexp(of_network, mixed.gather(1, columns).log_())
        return mixed.scatter_(1, columns, voted)

    def mix_columns(self, log_p: Tensor, votes: Tensor) -> Tensor:
        """log P(next click) of N columns, from the network's log_p and the votes, all [B, N].

        The N columns must include every column with a vote, so that a row of votes sums to 1, or
        to 0 if no item of the window has neighbours.
        """
        return torch.logaddexp(log_p + self._rest(votes), (self.weight * votes).log())

    def sparse_votes(self, histories: Tensor) -> tuple[Tensor, Tensor]:
        """Columns with votes, and these votes, both [B, L · K], for windows [B, L].

        A column can occur several times; a missing neighbour is column 0 with a vote of 0. The
        votes of a row sum to 1, or to 0 if no item of the window has neighbours.
        """
        batch, length = histories.shape
        clicks = histories.flatten()
        shares = self.shares.index_select(0, clicks).view(batch, length, -1)
        votes = shares.mul_(self.age_weights[-length:, None]).view(batch, -1)
        votes /= votes.sum(dim=1, keepdim=True).clamp_(min=1e-9)
        columns = self.rows.index_select(0, clicks).long().sub_(1).clamp_(min=0)
        return columns.view(batch, -1), votes

    def _rest(self, votes: Tensor) -> Tensor:
        """Log of the network's weight in the mixture, [B, 1]; 0 in a row without votes."""
        # Votes are not negative, and sum to 1 unless all are 0.
        return votes.sum(dim=1, keepdim=True).mul_(torch.log1p(-self.weight))
