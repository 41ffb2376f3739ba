"""Item neighbours: which items are clicked near which, as plain counts. A network's memory.

Networks generalise, counts remember; each is right where the other is not (Ludewig & Jannach,
"Evaluation of Session-based Recommendation Algorithms", 2018, show how far counts alone go).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from shared.windows import HISTORY_LENGTH

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
        """Mix the votes into logits [B, items] of a network, in place: log P(next click).

        Only voted columns change but for a constant, so that nothing costs a logarithm per item.
        """
        columns, votes = self.ballot(histories)
        rest = torch.where(votes.any(dim=1, keepdim=True), torch.log1p(-self.weight), 0.0)
        mixed = logits.sub_(torch.logsumexp(logits, dim=1, keepdim=True) - rest)
        of_network = mixed.gather(1, columns)
        # An item may be a neighbour of several clicks: the voted cells add its votes up.
        mixed.scatter_(1, columns, 0.0).scatter_add_(1, columns, self.weight * votes)
        voted = torch.logaddexp(of_network, mixed.gather(1, columns).log())
        return mixed.scatter_(1, columns, voted)

    def mixed(self, log_p: Tensor, votes: Tensor) -> Tensor:
        """log P(next click) of some columns, of which a network and the votes are given: [B, N].

        votes: every column that has a vote is among the N, so a row adds up to 1, or to 0 if no
        item of the window has neighbours.
        """
        rest = torch.where(votes.any(dim=1, keepdim=True), torch.log1p(-self.weight), 0.0)
        return torch.logaddexp(log_p + rest, (self.weight * votes).log())

    def ballot(self, histories: Tensor) -> tuple[Tensor, Tensor]:
        """Columns that are voted for, and the votes, both [B, HISTORY_LENGTH · K].

        A column can come several times, and column 0 with no votes where a neighbour is missing.
        The votes of a row add up to 1, or to 0 if no item of the window has neighbours.
        """
        votes = self.shares[histories] * self.age_weights.unsqueeze(-1)
        votes = votes / votes.sum(dim=(1, 2), keepdim=True).clamp(min=1e-9)
        columns = self.rows[histories].long().sub_(1).clamp_(min=0)
        return columns.flatten(1), votes.flatten(1)
