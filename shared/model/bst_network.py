"""A Behaviour Sequence Transformer: the clicks of a session in, two readings of the session out.

After Chen et al., "Behavior Sequence Transformer for E-commerce Recommendation in Alibaba", 2019
(arXiv:1905.06874), with these changes, each measured (docs/experiments.md):

- Attention is causal, and positions are relative: a learned bias per distance between two clicks
  (Shaw et al., 2018; Raffel et al., 2020). So *one* pass over a session trains the prediction after
  each of its clicks, and the encoding does not depend on where the window was cut.
- The score of a target is the scaled cosine of session vector and item vector, not an MLP tower.
  So a training step can use the whole of a large catalogue, and scoring is one matrix product.
- A session is read twice. *Ahead* is the encoder's output at the last click; it can be any vector.
  *About* is a weighted sum of the clicked items' own vectors, so it stays in the space of the items
  (Hou et al., "CORE", 2022). *Ahead* is better with much training data, *about* for rare items.
- Shoppers return to items that they have seen: a *repeat bonus*, predicted from the session for
  each of the last ten clicks, is added to the logits of these items.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer
from torch import Tensor, nn
from torch.nn import functional

from nextclick.shared.model.session_model import SessionModelConfig
from nextclick.shared.windows import HISTORY_LENGTH, PADDING

_FIRST_SCALE = 16.0
"""Initial value of the learned factor that turns a cosine in [-1, 1] into a logit."""
MAX_BUCKETS = 1 << 20


class BSTConfig(SessionModelConfig):
    """The shape of a BST."""

    kind: Literal["bst"] = "bst"
    embed_dropout: float = Field(0.25, ge=0, lt=1)
    """Share of the history's embedding entries dropped in training."""
    neighbours: int = Field(50, ge=1)
    """Neighbours kept per item."""
    content_buckets: int = Field(0, ge=0, le=MAX_BUCKETS)
    """Hashed features of the content encoder; 0: the model has none."""

    @model_serializer(mode="wrap")
    def _without_content_as_before(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What was written before there was content stays so, byte by byte."""
        written: dict[str, Any] = write(self)
        if not self.content_buckets:
            written.pop("content_buckets", None)
        return written


class Sessions(NamedTuple):
    """One reading of N sessions (a session read after several clicks counts several times)."""

    queries: Tensor
    """Shape [N, d]: logits are queries @ catalogue.T plus the bonus."""
    bonus_columns: Tensor
    """Shape [N, HISTORY_LENGTH]: columns of the last clicks, newest first."""
    bonus: Tensor
    """Shape [N, HISTORY_LENGTH]: added to the logits of these columns; 0 where no click is."""


class Readings(NamedTuple):
    """Both readings of the same N sessions."""

    ahead: Sessions
    about: Sessions


class Network(nn.Module):
    """See the module docstring."""

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
        self.ahead = _QueryHead(d)
        self.about = _QueryHead(d)

    def unit_vectors(self, rows: Tensor) -> Tensor:
        """Item vectors of length 1: [..., d] for rows [...]."""
        return functional.normalize(self.item_embedding(rows), dim=-1)

    def read(self, rows: Tensor, chosen: Tensor | None = None) -> Readings:
        """Read left-padded windows [B, L] of rows, L ≤ HISTORY_LENGTH, after chosen clicks.

        chosen: bool [B, L], true for the N clicks to read at, never at padding. None: the newest
        click of each window, N = B, which is cheaper. A reading at a click depends only on the
        clicks up to it. Returns two readings of N sessions.
        """
        place = torch.arange(rows.shape[1], device=rows.device)
        distance = place[:, None] - place[None, :]  # key to query
        itself = distance == 0  # always visible, so that padding attends to something
        visible = (distance >= 0) & ((rows != PADDING)[:, None, :] | itself)
        distance = distance.clamp(min=0)
        age = torch.arange(HISTORY_LENGTH, device=rows.device)
        back = place[:, None] - age  # for each place, the place of the click of each age before it
        if chosen is None:
            chosen, queried = torch.ones_like(rows[:, -1:], dtype=torch.bool), slice(-1, None)
        else:
            queried = slice(None)

        items = self.unit_vectors(rows)
        hidden = self.embed_dropout(items * math.sqrt(items.shape[-1]))
        for layer in self.layers[:-1]:
            hidden = layer(hidden, distance, visible)
        clicks = self.norm(hidden)
        distance, visible, back = distance[queried], visible[:, queried], back[queried]
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


class _QueryHead(nn.Module):
    """The output head of one reading: queries from session vectors, and repeat bonuses."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(_FIRST_SCALE)))
        self.repeat = nn.Linear(d, HISTORY_LENGTH)
        nn.init.zeros_(self.repeat.weight)
        nn.init.zeros_(self.repeat.bias)

    def forward(self, directions: Tensor, vectors: Tensor, clicked: Tensor) -> Sessions:
        """Make queries of `directions` and bonuses of `vectors`, both [N, d].

        clicked: [N, HISTORY_LENGTH] of rows, newest first.
        """
        return Sessions(
            functional.normalize(directions, dim=-1) * self.log_scale.exp(),
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

        distance: [Q, L], clicks between query and key; visible: bool [B, Q, L], where to attend.
        """
        normed, newest = self.attention_norm(hidden), hidden[:, -len(distance) :]
        bias = self.distance_bias[:, distance].masked_fill(~visible.unsqueeze(1), float("-inf"))
        newest = newest + self.dropout(self._attend(normed, bias))
        inner = functional.gelu(self.feedforward_in(self.feedforward_norm(newest)))
        result: Tensor = newest + self.dropout(self.feedforward_out(self.dropout(inner)))
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
