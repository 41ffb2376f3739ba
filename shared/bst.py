"""The Behaviour Sequence Transformer that serves: history in, one logit for every item out.

Chen et al., "Behavior Sequence Transformer for E-commerce Recommendation in Alibaba", 2019
(arXiv:1905.06874), changed where measuring said so (docs/experiments.md):

- Attention is causal, and where two clicks stand to each other enters as a learned bias per
  distance (Shaw et al., 2018; Raffel et al., 2020), so *one* pass over a session trains the
  prediction after each of its clicks, and a window means the same wherever it was cut.
- The session meets a target by the scaled cosine of their vectors, not in an MLP tower, so that
  all of a large catalogue can compete in every training step, and scoring it is one matrix product.
- Shoppers go back to what they have seen; a *repeat bonus*, read from the session for each of the
  last ten clicks, says how likely.
- Plain counts of which items are clicked together have a vote (`neighbours`); its weight is what
  the validation clicks are likeliest under.

The source's own form, with its tower, is `source_bst.SourceBST`.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from shared.neighbours import ItemNeighbours
from shared.session_model import SessionModel, SessionModelConfig
from shared.windows import HISTORY_LENGTH, PADDING

_FIRST_SCALE = 16.0
"""Cosines lie in [-1, 1]; this many times that makes logits (learned from here on)."""


class BSTConfig(SessionModelConfig):
    """The shape of a BST."""

    kind: Literal["bst"] = "bst"
    embed_dropout: float = Field(0.25, ge=0, lt=1)
    """Share of the history's embedding entries dropped in training."""
    neighbours: int = Field(50, ge=1)
    """Neighbours kept per item."""


class Sessions(NamedTuple):
    """Sessions as the model understands them after some of their clicks: N of them."""

    queries: Tensor
    """Shape [N, embed_dim]: logits are queries @ catalogue.T plus the bonus."""
    bonus_columns: Tensor
    """Shape [N, HISTORY_LENGTH]: columns of the last clicks, newest first."""
    bonus: Tensor
    """Shape [N, HISTORY_LENGTH]: added to the logits of these columns; 0 where no click is."""


class BST(SessionModel):
    """See the module."""

    config: BSTConfig

    def __init__(self, config: BSTConfig) -> None:
        super().__init__(config)
        d = config.embed_dim
        self.item_embedding = nn.Embedding(config.items + 1, d, padding_idx=PADDING)
        with torch.no_grad():
            self.item_embedding.weight.mul_(d**-0.5)
        self.embed_dropout = nn.Dropout(config.embed_dropout)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(d)
        self.repeat = nn.Linear(d, HISTORY_LENGTH)
        nn.init.zeros_(self.repeat.weight)
        nn.init.zeros_(self.repeat.bias)
        self.log_scale = nn.Parameter(torch.tensor(math.log(_FIRST_SCALE)))
        self.neighbours = ItemNeighbours(config.items, config.neighbours)

    def encode(self, rows: Tensor) -> Tensor:
        """Encode left-padded windows [B, L], L ≤ HISTORY_LENGTH: vectors [B, L, embed_dim].

        The vector at a position knows the clicks up to there. At padding it means nothing.
        """
        d = self.config.embed_dim
        hidden = functional.normalize(self.item_embedding(rows), dim=-1) * math.sqrt(d)
        hidden = self.embed_dropout(hidden)
        place = torch.arange(rows.shape[1], device=rows.device)
        distance = place[:, None] - place[None, :]
        itself = distance == 0  # always visible, so that padding attends to something
        visible = (distance >= 0) & ((rows != PADDING)[:, None, :] | itself)
        for layer in self.layers:
            hidden = layer(hidden, distance.clamp(min=0), visible.unsqueeze(1))
        encoded: Tensor = self.norm(hidden)
        return encoded

    def sessions(self, rows: Tensor, encoded: Tensor, chosen: Tensor) -> Sessions:
        """Pick positions of encoded windows to predict from.

        rows: [B, L]; encoded: [B, L, embed_dim]; chosen: [B, L] of bool, N of them true.
        """
        vectors = encoded[chosen]
        place = torch.arange(rows.shape[1], device=rows.device)
        age = torch.arange(HISTORY_LENGTH, device=rows.device)
        back = place[:, None] - age[None, :]  # [L, HISTORY_LENGTH]: where the click of an age is
        clicked = torch.where(back >= 0, rows[:, back.clamp(min=0)], PADDING)[chosen]
        bonus = self.repeat(vectors).masked_fill(clicked == PADDING, 0.0)
        return Sessions(
            functional.normalize(vectors, dim=-1) * self.log_scale.exp(),
            (clicked - 1).clamp(min=0),
            bonus,
        )

    def catalogue(self) -> Tensor:
        """Unit item vectors, shape [items, embed_dim]."""
        return functional.normalize(self.item_embedding.weight[1:], dim=-1)

    def network_logits(self, histories: Tensor, catalogue: Tensor) -> Tensor:
        """Logits [B, items] without the neighbours' vote."""
        last = torch.zeros_like(histories, dtype=torch.bool)
        last[:, -1] = True
        found = self.sessions(histories, self.encode(histories), last)
        return (found.queries @ catalogue.T).scatter_add(1, found.bonus_columns, found.bonus)

    def forward(self, histories: Tensor, catalogue: Tensor | None = None) -> Tensor:
        """log P(next click), up to a constant, after windows [B, HISTORY_LENGTH]: [B, items]."""
        logits = self.network_logits(
            histories, self.catalogue() if catalogue is None else catalogue
        )
        return self.neighbours.blend(logits, histories)


class _Layer(nn.Module):
    """A pre-norm Transformer layer with a learned attention bias for each distance and head."""

    def __init__(self, config: BSTConfig) -> None:
        super().__init__()
        d = config.embed_dim
        self.heads = config.heads
        self.attention_norm = nn.LayerNorm(d)
        self.query_key_value = nn.Linear(d, 3 * d)
        self.attention_out = nn.Linear(d, d)
        self.distance_bias = nn.Parameter(torch.zeros(config.heads, HISTORY_LENGTH))
        self.feedforward_norm = nn.LayerNorm(d)
        self.feedforward_in = nn.Linear(d, config.feedforward)
        self.feedforward_out = nn.Linear(config.feedforward, d)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden: Tensor, distance: Tensor, visible: Tensor) -> Tensor:
        """hidden: [B, L, d]; distance: [L, L], key to query; visible: [B, 1, L, L] of bool."""
        bias = self.distance_bias[:, distance].masked_fill(~visible, float("-inf"))
        hidden = hidden + self.dropout(self._attend(self.attention_norm(hidden), bias))
        inner = functional.gelu(self.feedforward_in(self.feedforward_norm(hidden)))
        result: Tensor = hidden + self.dropout(self.feedforward_out(self.dropout(inner)))
        return result

    def _attend(self, hidden: Tensor, bias: Tensor) -> Tensor:
        batch, length, d = hidden.shape
        heads = self.query_key_value(hidden).view(batch, length, 3, self.heads, d // self.heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        dropout = self.dropout.p if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(query, key, value, bias, dropout)
        merged: Tensor = self.attention_out(mixed.transpose(1, 2).reshape(batch, length, d))
        return merged
