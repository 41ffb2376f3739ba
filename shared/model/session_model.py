"""The interface of a servable model: a catalogue once, then probabilities for windows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from nextclick.shared.model.softmax import log_softmax


class SessionModelConfig(BaseModel):
    """Hyperparameters that every session model has; part of every checkpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    items: int = Field(ge=1)
    """Catalogue size; rows are 1..items, row 0 is padding."""
    embed_dim: int = Field(64, ge=1)
    heads: int = Field(4, ge=1)
    layers: int = Field(2, ge=1)
    feedforward: int = Field(128, ge=1)
    dropout: float = Field(0.2, ge=0, lt=1)

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> Self:
        if self.embed_dim % self.heads:
            raise ValueError(f"{self.heads} heads cannot share {self.embed_dim} dimensions")
        return self


Encoded: TypeAlias = tuple[Tensor, ...]
"""A model's encoding of B windows: tensors whose first dimension is B."""


Encoder: TypeAlias = Callable[[Tensor], Encoded]
"""Encodes windows [B, L] of rows, left-padded to the longest of them, L ≤ HISTORY_LENGTH."""


class SessionModel(nn.Module, ABC):
    """A network that encodes a window once and scores the whole catalogue for it.

    Parameters per item are tensors with one row per catalogue row, so that a vocabulary can grow at
    its end.
    """

    def __init__(self, config: SessionModelConfig) -> None:
        super().__init__()
        self.config = config

    @abstractmethod
    def catalogue(self) -> Tensor:
        """Precompute the item side of scoring: constant per model, first dimension items."""

    @abstractmethod
    def item_vectors(self) -> Tensor:
        """Unit vectors of the catalogue, [items, embed_dim]; their cosine is the similarity."""

    @abstractmethod
    def encode(self, histories: Tensor) -> Encoded:
        """Encode windows [B, L] of rows, left-padded, L ≤ HISTORY_LENGTH; none is all padding."""

    def serving_encoder(self, catalogue: Tensor) -> Encoder:
        """A function equal to `encode` for weights that no longer change; it may be faster.

        catalogue: the result of `catalogue()`.
        """
        return self.encode

    @abstractmethod
    def score(self, encoded: Encoded, catalogue: Tensor) -> Tensor:
        """Score the whole catalogue for encoded windows: [B, items].

        Column j is catalogue row j + 1. These are the logits that a fit trains.
        """

    def logits(self, histories: Tensor, catalogue: Tensor) -> Tensor:
        """Encode windows [B, L] and score the catalogue for them: [B, items]."""
        return self.score(self.encode(histories), catalogue)

    def log_probabilities(self, logits: Tensor, histories: Tensor) -> Tensor:
        """log P(next click) from logits [B, items] and windows [B, L]: [B, items], row by row."""
        return log_softmax(logits)

    def forward(self, histories: Tensor, catalogue: Tensor | None = None) -> Tensor:
        """log P(next click) after windows [B, L]: [B, items]. catalogue: None: computed here."""
        known = self.catalogue() if catalogue is None else catalogue
        return self.log_probabilities(self.logits(histories, known), histories)
