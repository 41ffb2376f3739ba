"""The Behaviour Sequence Transformer: history in, one logit for every catalogue item out.

Chen et al., "Behavior Sequence Transformer for E-commerce Recommendation in Alibaba", 2019
(arXiv:1905.06874), in the form of the source that nextclick implements: item embeddings plus
learned positions, a Transformer encoder, masked mean, and a tower over (session, target).

The history is encoded once, never once per candidate. The tower's first layer is linear in
(session, target), so it splits into a session half and a target half; the target half of the
whole catalogue is computed once per model (`target_half`).
"""

from __future__ import annotations

from typing import Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from shared.windows import HISTORY_LENGTH, PADDING

_BLOCK_ELEMENTS = 8_388_608
"""Tower activations held at once while scoring (32 MiB of float32): bounds memory."""


class BSTConfig(BaseModel):
    """The shape of a BST; part of every checkpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    items: int = Field(ge=1)
    """Catalogue size; rows are 1..items, row 0 is padding."""
    embed_dim: int = Field(64, ge=1)
    heads: int = Field(4, ge=1)
    layers: int = Field(2, ge=1)
    feedforward: int = Field(128, ge=1)
    tower: int = Field(128, ge=1)
    dropout: float = Field(0.2, ge=0, lt=1)

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> Self:
        if self.embed_dim % self.heads:
            raise ValueError(f"{self.heads} heads cannot share {self.embed_dim} dimensions")
        return self


class BST(nn.Module):
    """See the module. All methods return logits: log-odds or log-probabilities up to a constant."""

    def __init__(self, config: BSTConfig) -> None:
        super().__init__()
        self.config = config
        d = config.embed_dim
        self.item_embedding = nn.Embedding(config.items + 1, d, padding_idx=PADDING)
        self.position_embedding = nn.Parameter(torch.randn(HISTORY_LENGTH, d))
        layer = nn.TransformerEncoderLayer(
            d, config.heads, config.feedforward, config.dropout, batch_first=True
        )
        # Nested tensors would make the kernels, and so the last bits, depend on the batch.
        self.encoder = nn.TransformerEncoder(layer, config.layers, enable_nested_tensor=False)
        self.tower_in = nn.Linear(2 * d, config.tower)
        self.tower_out = nn.Linear(config.tower, 1)
        self.dropout = nn.Dropout(config.dropout)

    def encode(self, histories: Tensor) -> Tensor:
        """Encode windows, shape [B, HISTORY_LENGTH] of rows, into sessions, shape [B, embed_dim].

        Every window holds at least one item: attention over nothing is undefined.
        """
        padding = histories == PADDING
        embedded = self.item_embedding(histories) + self.position_embedding
        encoded = self.encoder(embedded, src_key_padding_mask=padding)
        encoded = encoded.masked_fill(padding.unsqueeze(-1), 0.0)
        session: Tensor = encoded.sum(dim=1) / (~padding).sum(dim=1, keepdim=True)
        return session

    def session_half(self, sessions: Tensor) -> Tensor:
        """The tower's first layer on sessions [..., embed_dim]: shape [..., tower]."""
        d = self.config.embed_dim
        return nn.functional.linear(sessions, self.tower_in.weight[:, :d], self.tower_in.bias)

    def target_half(self, rows: Tensor | None = None) -> Tensor:
        """The tower's first layer on catalogue rows [...] (default: all): shape [..., tower]."""
        d = self.config.embed_dim
        targets = self.item_embedding.weight[1:] if rows is None else self.item_embedding(rows)
        return nn.functional.linear(targets, self.tower_in.weight[:, d:])

    def tower(self, session_half: Tensor, target_half: Tensor) -> Tensor:
        """Finish the tower on two halves that broadcast to [..., tower]: logits of shape [...]."""
        logits: Tensor = self.tower_out(self.dropout(torch.relu(session_half + target_half)))
        return logits.squeeze(-1)

    def candidate_logits(self, histories: Tensor, candidates: Tensor) -> Tensor:
        """Score each window's own candidates, rows of shape [B, C]: logits [B, C]."""
        sessions = self.session_half(self.encode(histories)).unsqueeze(1)
        return self.tower(sessions, self.target_half(candidates))

    def forward(self, histories: Tensor, target_half: Tensor | None = None) -> Tensor:
        """Score the whole catalogue for windows [B, HISTORY_LENGTH]: logits [B, items].

        `target_half` is that of the catalogue if it is at hand (it is constant per model).
        Column j is catalogue row j + 1.
        """
        targets = self.target_half() if target_half is None else target_half
        sessions = self.session_half(self.encode(histories)).unsqueeze(1)
        block = max(1, _BLOCK_ELEMENTS // (self.config.tower * len(histories)))
        parts = [self.tower(sessions, part) for part in torch.split(targets, block)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
