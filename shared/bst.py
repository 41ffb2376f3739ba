"""The model that serves: networks and neighbours, history in, one logit for every item out.

A few networks (`bst_network`), alike but for where they began, see every session; the mean of
their logits is better than any of them, the more so where each has learned some of its log by
heart. Both readings of each network are trained; how much of the mean is *about* and how much is
*ahead* is what ranks the validation clicks best. Plain counts of which items are clicked together
(`neighbours`) have a vote besides; its weight is what ranks them best.

The source's own form, with its tower, is `source_bst.SourceBST`.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from shared.bst_network import BSTConfig, Network, Readings, Sessions
from shared.neighbours import ItemNeighbours
from shared.session_model import Encoded, SessionModel


class BST(SessionModel):
    """See the module."""

    config: BSTConfig
    about_share: Tensor
    """Scalar in [0, 1]: the part of the logits that comes from what a session is about."""

    def __init__(self, config: BSTConfig) -> None:
        super().__init__(config)
        self._members = nn.ModuleList(Network(config) for _ in range(config.members))
        self.neighbours = ItemNeighbours(config.items, config.neighbours)
        self.register_buffer("about_share", torch.tensor(0.5))

    @property
    def networks(self) -> list[Network]:
        """The networks, alike in shape."""
        return cast(list[Network], list(self._members))

    def catalogue(self) -> Tensor:
        """Unit item vectors of the networks side by side, shape [items, members · embed_dim]."""
        rows = torch.arange(1, self.config.items + 1, device=self.about_share.device)
        return torch.cat([network.unit_vectors(rows) for network in self.networks], dim=1)

    def readings(self, histories: Tensor) -> Readings:
        """Both readings of windows [B, HISTORY_LENGTH]; queries as wide as the catalogue."""
        each = [network.read(histories) for network in self.networks]
        return Readings(*(_mean(list(sessions)) for sessions in zip(*each, strict=True)))

    def encode(self, histories: Tensor) -> Sessions:
        """Both readings of windows [B, HISTORY_LENGTH], mixed."""
        ahead, about = self.readings(histories)
        return Sessions(
            torch.lerp(ahead.queries, about.queries, self.about_share),
            ahead.bonus_columns,
            torch.lerp(ahead.bonus, about.bonus, self.about_share),
        )

    def score(self, encoded: Encoded, catalogue: Tensor) -> Tensor:
        """Logits [B, items] of the networks for `Sessions`."""
        sessions = Sessions(*encoded)
        scores = sessions.queries @ catalogue.T
        return scores.scatter_add_(1, sessions.bonus_columns, sessions.bonus)

    def log_probabilities(self, logits: Tensor, histories: Tensor) -> Tensor:
        """log P(next click) of networks and neighbours, in place of the logits: [B, items]."""
        return self.neighbours.mix(logits, histories)


def _mean(members: list[Sessions]) -> Sessions:
    """One query beside the other, so that one matrix product gives the mean of all logits."""
    count = len(members)
    return Sessions(
        torch.cat([member.queries for member in members], dim=1) / count,
        members[0].bonus_columns,
        torch.stack([member.bonus for member in members]).mean(dim=0),
    )
