"""The default model: a network mixed with item neighbours; history in, one score per item out.

The network (`bst_network`) makes two readings of a session, *ahead* and *about*, and both are
trained. `about_share` mixes their logits. Co-click counts (`neighbours`) are mixed in last. The fit
chooses both mixing weights by the ranking of the validation clicks.

The architecture of the source, with an MLP tower, is `source_bst.SourceBST`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nextclick.shared.model.bst_encoder import BSTEncoder
from nextclick.shared.model.bst_network import BSTConfig, Network, Readings, Sessions
from nextclick.shared.model.content import ContentEncoder
from nextclick.shared.model.neighbours import ItemNeighbours
from nextclick.shared.model.session_model import Encoded, Encoder, SessionModel


class BST(SessionModel):
    """See the module docstring."""

    config: BSTConfig
    content: ContentEncoder | None
    """Makes vectors of items from what is said about them. Those in the catalogue need it no more.
    """
    about_share: Tensor
    """Scalar in [0, 1]: weight of the *about* reading; the *ahead* reading has the rest."""

    def __init__(self, config: BSTConfig) -> None:
        super().__init__(config)
        self.network = Network(config)
        self.neighbours = ItemNeighbours(config.items, config.neighbours)
        self.content = (
            ContentEncoder(config.content_buckets, config.embed_dim)
            if config.content_buckets
            else None
        )
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
        """An encoder with fewer operators, for weights that no longer change."""
        return BSTEncoder(self.network, self.about_share.item(), catalogue)

    def score(self, encoded: Encoded, catalogue: Tensor) -> Tensor:
        """Logits [B, items] of the network alone; `encoded` holds the fields of `Sessions`."""
        sessions = Sessions(*encoded)
        scores = sessions.queries @ catalogue.T
        return scores.scatter_add_(1, sessions.bonus_columns, sessions.bonus)

    def log_probabilities(self, logits: Tensor, histories: Tensor) -> Tensor:
        """log P(next click) of network and neighbours mixed: [B, items]."""
        return self.neighbours.mix(logits, histories)
