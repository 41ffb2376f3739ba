"""One Behaviour Sequence Transformer: a session's clicks in, two readings of it out.

Chen et al., "Behavior Sequence Transformer for E-commerce Recommendation in Alibaba", 2019
(arXiv:1905.06874), changed where measuring said so (docs/experiments.md):

- Attention is causal, and where two clicks stand to each other enters as a learned bias per
  distance (Shaw et al., 2018; Raffel et al., 2020), so *one* pass over a session trains the
  prediction after each of its clicks, and a window means the same wherever it was cut.
- The session meets a target by the scaled cosine of their vectors, not in an MLP tower, so that
  all of a large catalogue can compete in every training step, and scoring it is one matrix product.
- A session is read twice. *Ahead*: the encoder's vector at the last click, free to point anywhere,
  says where the session leads. *About*: a weighted sum of the clicked items' own vectors, which
  cannot leave the space of the items (Hou et al., "CORE", 2022), says what the session is about.
  The first is right where there is much to learn from, the second where items are rare.
- Shoppers go back to what they have seen; a *repeat bonus*, read from the session for each of the
  last ten clicks, says how likely.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from nextclick.shared.model.session_model import SessionModelConfig
from nextclick.shared.windows import HISTORY_LENGTH, PADDING

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
    """Sessions as they are read after some of their clicks: N of them."""

    queries: Tensor
    """Shape [N, d]: logits are queries @ catalogue.T plus the bonus."""
    bonus_columns: Tensor
    """Shape [N, HISTORY_LENGTH]: columns of the last clicks, newest first."""
    bonus: Tensor
    """Shape [N, HISTORY_LENGTH]: added to the logits of these columns; 0 where no click is."""


class Readings(NamedTuple):
    """The same sessions, read both ways."""

    ahead: Sessions
    about: Sessions


class Network(nn.Module):
    """See the module."""

    def __init__(self, config: BSTConfig) -> None:
        super().__init__()
        d = config.embed_dim
        self.item_embedding = nn.Embedding(config.items + 1, d, padding_idx=PADDING)
        with torch.no_grad():
            self.item_embedding.weight.mul_(d**-0.5)
        self.embed_dropout = nn.Dropout(config.embed_dropout)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(d)
        self.about_query = nn.Linear(d, d)
        self.about_key = nn.Linear(d, d)
        self.about_bias = nn.Parameter(torch.zeros(HISTORY_LENGTH))
        self.ahead = _Aim(d)
        self.about = _Aim(d)

    def unit_vectors(self, rows: Tensor) -> Tensor:
        """Item vectors of length 1: [..., d] for rows [...]."""
        return functional.normalize(self.item_embedding(rows), dim=-1)

    def read(self, rows: Tensor, chosen: Tensor | None = None) -> Readings:
        """Read left-padded windows [B, L], L ≤ HISTORY_LENGTH, after some of their clicks.

        chosen: [B, L] of bool, N of them true and none at padding. None: after the newest click of
        each window, N = B; it is what serving asks for, and cheaper. What is read at a click knows
        the clicks up to there.
        """
        place = torch.arange(rows.shape[1], device=rows.device)
        distance = place[:, None] - place[None, :]  # key to query
        itself = distance == 0  # always visible, so that padding attends to something
        visible = (distance >= 0) & ((rows != PADDING)[:, None, :] | itself)
        distance = distance.clamp(min=0)
        age = torch.arange(HISTORY_LENGTH, device=rows.device)
        back = place[:, None] - age  # where the click of an age is, seen from each place
        if chosen is None:
            chosen, asked = torch.ones_like(rows[:, -1:], dtype=torch.bool), slice(-1, None)
        else:
            asked = slice(None)

        items = self.unit_vectors(rows)
        hidden = self.embed_dropout(items * math.sqrt(items.shape[-1]))
        for layer in self.layers[:-1]:
            hidden = layer(hidden, distance, visible)
        clicks = self.norm(hidden)
        distance, visible, back = distance[asked], visible[:, asked], back[asked]
        ahead = self.norm(self.layers[-1](hidden, distance, visible))

        relevance = self.about_query(ahead) @ self.about_key(clicks).transpose(1, 2)
        relevance = relevance / math.sqrt(items.shape[-1]) + self.about_bias[distance]
        relevance = torch.softmax(relevance.masked_fill(~visible, float("-inf")), dim=-1)
        about = relevance @ self.embed_dropout(items)

        clicked = torch.where(back >= 0, rows[:, back.clamp(min=0)], PADDING)[chosen]
        return Readings(
            self.ahead(ahead[chosen], ahead[chosen], clicked),
            self.about(about[chosen], ahead[chosen], clicked),
        )


class _Aim(nn.Module):
    """From vectors in item space to queries, and how likely the clicks are to be repeated."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(_FIRST_SCALE)))
        self.repeat = nn.Linear(d, HISTORY_LENGTH)
        nn.init.zeros_(self.repeat.weight)
        nn.init.zeros_(self.repeat.bias)

    def forward(self, towards: Tensor, vectors: Tensor, clicked: Tensor) -> Sessions:
        """towards, vectors: [N, d]; clicked: [N, HISTORY_LENGTH] of rows, newest first."""
        return Sessions(
            functional.normalize(towards, dim=-1) * self.log_scale.exp(),
            (clicked - 1).clamp(min=0),
            self.repeat(vectors).masked_fill(clicked == PADDING, 0.0),
        )


class EncoderLayer(nn.Module):
    """A pre-norm Transformer layer with a learned attention bias for each distance and head."""

    def __init__(self, config: BSTConfig) -> None:
        super().__init__()
        d = config.embed_dim
        self.heads = config.heads
        self.attention_norm = nn.LayerNorm(d)
        self.query = nn.Linear(d, d)
        self.key = nn.Linear(d, d)
        self.value = nn.Linear(d, d)
        self.attention_out = nn.Linear(d, d)
        self.distance_bias = nn.Parameter(torch.zeros(config.heads, HISTORY_LENGTH))
        self.feedforward_norm = nn.LayerNorm(d)
        self.feedforward_in = nn.Linear(d, config.feedforward)
        self.feedforward_out = nn.Linear(config.feedforward, d)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden: Tensor, distance: Tensor, visible: Tensor) -> Tensor:
        """Encode the newest Q of L clicks: [B, L, d] to [B, Q, d].

        distance: [Q, L], of each click to each of those; visible: [B, Q, L] of bool.
        """
        normed, asked = self.attention_norm(hidden), hidden[:, -len(distance) :]
        bias = self.distance_bias[:, distance].masked_fill(~visible.unsqueeze(1), float("-inf"))
        asked = asked + self.dropout(self._attend(normed, bias))
        inner = functional.gelu(self.feedforward_in(self.feedforward_norm(asked)))
        result: Tensor = asked + self.dropout(self.feedforward_out(self.dropout(inner)))
        return result

    def _attend(self, normed: Tensor, bias: Tensor) -> Tensor:
        batch, length, d = normed.shape
        shape = (batch, -1, self.heads, d // self.heads)
        query = self.query(normed[:, length - bias.shape[2] :]).view(shape).transpose(1, 2)
        key = self.key(normed).view(shape).transpose(1, 2)
        value = self.value(normed).view(shape).transpose(1, 2)
        dropout = self.dropout.p if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(query, key, value, bias, dropout)
        merged: Tensor = self.attention_out(mixed.transpose(1, 2).reshape(batch, -1, d))
        return merged
