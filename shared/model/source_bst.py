"""The BST exactly as the source text describes it: a preset, and a baseline for `bst.BST`.

Item embeddings plus learned positions, a Transformer encoder, masked mean, and an MLP tower over
(session, target). A history is encoded once, not once per candidate: the first layer of the tower
is linear in (session, target), so it splits into a session half and a target half, and the target
half of the whole catalogue is computed once per model.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from nextclick.shared.model.session_model import Encoded, SessionModel, SessionModelConfig
from nextclick.shared.windows import HISTORY_LENGTH, PADDING

_BLOCK_ELEMENTS = 8_388_608
"""Most tower activations held at once while scoring (32 MiB of float32)."""


class SourceBSTConfig(SessionModelConfig):
    """Hyperparameters of a source BST."""

    kind: Literal["source"] = "source"
    tower: int = Field(128, ge=1)


class SourceBST(SessionModel):
    """See the module docstring. Logits are log-odds or log-probabilities up to a constant."""

    config: SourceBSTConfig

    def __init__(self, config: SourceBSTConfig) -> None:
        super().__init__(config)
        d = config.embed_dim
        self.item_embedding = nn.Embedding(config.items + 1, d, padding_idx=PADDING)
        self.position_embedding = nn.Parameter(torch.randn(HISTORY_LENGTH, d))
        layer = nn.TransformerEncoderLayer(
            d, config.heads, config.feedforward, config.dropout, batch_first=True
        )
        # With nested tensors the kernels, and so the rounding, would depend on the batch.
        self.encoder = nn.TransformerEncoder(layer, config.layers, enable_nested_tensor=False)
        self.tower_in = nn.Linear(2 * d, config.tower)
        self.tower_out = nn.Linear(config.tower, 1)
        self.dropout = nn.Dropout(config.dropout)

    def session(self, histories: Tensor) -> Tensor:
        """Encode windows [B, L] of rows to sessions [B, embed_dim].

        Every window must hold at least one item: attention over padding alone is undefined.
        """
        padding = histories == PADDING
        embedded = self.item_embedding(histories) + self.position_embedding[-histories.shape[1] :]
        encoded = self.encoder(embedded, src_key_padding_mask=padding)
        encoded = encoded.masked_fill(padding.unsqueeze(-1), 0.0)
        session: Tensor = encoded.sum(dim=1) / (~padding).sum(dim=1, keepdim=True)
        return session

    def session_half(self, sessions: Tensor) -> Tensor:
        """First layer of the tower, session half: [..., embed_dim] to [..., tower]."""
        d = self.config.embed_dim
        return nn.functional.linear(sessions, self.tower_in.weight[:, :d], self.tower_in.bias)

    def catalogue(self) -> Tensor:
        """Target half of the tower's first layer for every item: [items, tower]."""
        return self.target_half(self.item_embedding.weight[1:])

    def item_vectors(self) -> Tensor:
        """Item embeddings, scaled to length 1: [items, embed_dim]."""
        return nn.functional.normalize(self.item_embedding.weight[1:], dim=1)

    def target_half(self, targets: Tensor) -> Tensor:
        """First layer of the tower, target half: [..., embed_dim] to [..., tower]."""
        d = self.config.embed_dim
        return nn.functional.linear(targets, self.tower_in.weight[:, d:])

    def tower(self, session_half: Tensor, target_half: Tensor) -> Tensor:
        """Rest of the tower, on two halves that broadcast to [..., tower]: logits [...]."""
        logits: Tensor = self.tower_out(self.dropout(torch.relu(session_half + target_half)))
        return logits.squeeze(-1)

    def candidate_logits(self, histories: Tensor, candidates: Tensor) -> Tensor:
        """Logits [B, C] for windows [B, L], each with its own candidate rows [B, C]."""
        sessions = self.session_half(self.session(histories)).unsqueeze(1)
        return self.tower(sessions, self.target_half(self.item_embedding(candidates)))

    def encode(self, histories: Tensor) -> Encoded:
        """Session half of the tower's first layer for windows [B, L]: one tensor [B, tower]."""
        return (self.session_half(self.session(histories)),)

    def score(self, encoded: Encoded, catalogue: Tensor) -> Tensor:
        """Score the whole catalogue for encoded windows: logits [B, items]."""
        (half,) = encoded
        block = max(1, _BLOCK_ELEMENTS // (self.config.tower * len(half)))
        parts = [self.tower(half.unsqueeze(1), part) for part in torch.split(catalogue, block)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
