"""Presets: named hyperparameters of model and fit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from nextclick.shared.errors import ConfigurationError
from nextclick.shared.model import BSTConfig, SourceBSTConfig


@dataclass(frozen=True)
class Regularisation:
    """Regularisation of a BST against overfitting."""

    dropout: float
    embed_dropout: float
    label_smoothing: float


SPARSE = Regularisation(dropout=0.3, embed_dropout=0.25, label_smoothing=0.1)
DENSE = Regularisation(dropout=0.1, embed_dropout=0.1, label_smoothing=0.0)
DENSE_CLICKS_PER_ITEM = 200
"""With at least this many training clicks per item, overfitting is small: DENSE is used."""


@dataclass(frozen=True)
class Preset:
    """Hyperparameters of model and fit."""

    name: str
    shape: BSTConfig | SourceBSTConfig
    """The model's configuration; `items` is replaced."""
    learning_rate: float
    warm_learning_rate: float
    """Peak learning rate of a fit that starts from a champion."""
    batch_size: int
    """Predicted clicks per step."""
    epochs: int
    """Minimum number of epochs, see `steps`."""
    patience: int
    """Stop after this many epochs without a better validation NDCG or loss."""
    weight_decay: float
    steps: int = 0
    """If `epochs` epochs have fewer steps than this, as many epochs as give about this many."""
    stride: int = 8
    """For a BST: clicks predicted per segment, see `trainer.data.segments`."""
    regularisation: Regularisation | None = None
    """For a BST; None: SPARSE or DENSE, by the number of clicks per item."""
    negatives: int = 1
    """For a source BST: random items per target."""
    sampling: Literal["temporal", "source"] = "temporal"
    """source: the source's own labelled table and random 80/20 split (dataset.source_samples).
    It leaks test data into training: only for reproducing the source's figures."""

    def config(self, items: int, clicks: int) -> BSTConfig | SourceBSTConfig:
        """The model's configuration for a catalogue size and a number of training clicks."""
        config = self.shape.model_copy(update={"items": items})
        if isinstance(config, SourceBSTConfig):
            return config
        chosen = self.regularisation_for(items, clicks)
        return config.model_copy(
            update={"dropout": chosen.dropout, "embed_dropout": chosen.embed_dropout}
        )

    def regularisation_for(self, items: int, clicks: int) -> Regularisation:
        """The regularisation of a BST for a catalogue size and a number of training clicks."""
        dense = clicks >= DENSE_CLICKS_PER_ITEM * max(1, items)
        return self.regularisation or (DENSE if dense else SPARSE)


DEFAULT = Preset(
    name="default",
    shape=BSTConfig(items=1, embed_dim=96, feedforward=192),
    learning_rate=2e-3,
    warm_learning_rate=1e-3,
    batch_size=512,
    epochs=2,
    patience=3,
    weight_decay=0.01,
    steps=2800,
)

SOURCE = Preset(
    # The source's model: feed-forward 2048 (torch's default), one negative per click.
    name="source",
    shape=SourceBSTConfig(items=1, feedforward=2048),
    learning_rate=1e-3,
    warm_learning_rate=3e-4,
    batch_size=256,
    epochs=10,
    patience=3,
    weight_decay=0.0,
)

SOURCE_TABLE = replace(SOURCE, name="source_table", sampling="source")

PRESETS = {preset.name: preset for preset in (DEFAULT, SOURCE, SOURCE_TABLE)}


def preset(name: str) -> Preset:
    """The preset with a name; raises ConfigurationError that lists all if there is none."""
    try:
        return PRESETS[name]
    except KeyError:
        raise ConfigurationError(
            f"the preset {name!r} (NEXTCLICK_TRAINER__PRESET or --preset) is not known; "
            f"use one of {', '.join(PRESETS)}"
        ) from None
