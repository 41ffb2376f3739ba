"""The model that serves: a network and neighbours, history in, one logit for every item out.

The network (`bst_network`) reads a session twice and is trained for both; how much of its logits is
*about* and how much is *ahead* is what ranks the validation clicks best. Plain counts of which
items are clicked together (`neighbours`) have a vote besides; so is its weight chosen.

The source's own form, with its tower, is `source_bst.SourceBST`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nextclick.shared.model.bst_encoder import BSTEncoder
from nextclick.shared.model.bst_network import BSTConfig, Network, Readings, Sessions
from nextclick.shared.model.neighbours import ItemNeighbours
from nextclick.shared.model.session_model import Encoded, Encoder, SessionModel


class BST(SessionModel):
    """See the module."""

    config: BSTConfig
    about_share: Tensor
    """Scalar in [0, 1]: the part of the logits that comes from what a session is about."""

    def __init__(self, config: BSTConfig) -> None:
        super().__init__(config)
        self.network = Network(config)
        self.neighbours = ItemNeighbours(config.items, config.neighbours)
        self.register_buffer("about_share", torch.tensor(0.5))

    def catalogue(self) -> Tensor:
        """The item vectors."""
        return self.item_vectors()

    def item_vectors(self) -> Tensor:
        """Unit item vectors, shape [items, embed_dim]."""
        rows = torch.arange(1, self.config.items + 1, device=self.about_share.device)
        return self.network.unit_vectors(rows)

    def readings(self, histories: Tensor) -> Readings:
        """Both readings of windows [B, L]."""
        return self.network.read(histories)

    def encode(self, histories: Tensor) -> Sessions:
        """Both readings of windows [B, L], mixed."""
        ahead, about = self.readings(histories)
        return Sessions(
            torch.lerp(ahead.queries, about.queries, self.about_share),
            ahead.bonus_columns,
            torch.lerp(ahead.bonus, about.bonus, self.about_share),
        )

    def serving_encoder(self, catalogue: Tensor) -> Encoder:
        """The same by fewer operators, for weights that stay as they are."""
        return BSTEncoder(self.network, self.about_share.item(), catalogue)

    def score(self, encoded: Encoded, catalogue: Tensor) -> Tensor:
        """Logits [B, items] of the network for `Sessions`."""
        sessions = Sessions(*encoded)
        scores = sessions.queries @ catalogue.T
        return scores.scatter_add_(1, sessions.bonus_columns, sessions.bonus)

    def log_probabilities(self, logits: Tensor, histories: Tensor) -> Tensor:
        """log P(next click) of network and neighbours: [B, items]."""
        return self.neighbours.mix(logits, histories)
