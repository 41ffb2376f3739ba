"""Named recipes: the shape of the model and how it is fitted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from nextclick.shared.errors import ConfigurationError
from nextclick.shared.model import BSTConfig, SourceBSTConfig


@dataclass(frozen=True)
class Regularisation:
    """How a BST is kept from learning its log by heart."""

    dropout: float
    embed_dropout: float
    label_smoothing: float


SPARSE = Regularisation(dropout=0.3, embed_dropout=0.25, label_smoothing=0.1)
DENSE = Regularisation(dropout=0.1, embed_dropout=0.1, label_smoothing=0.0)
DENSE_CLICKS_PER_ITEM = 200
"""From so many training clicks per item on, there is little to learn by heart."""


@dataclass(frozen=True)
class Preset:
    """One recipe."""

    name: str
    shape: BSTConfig | SourceBSTConfig
    """The model's shape but for the number of items."""
    learning_rate: float
    warm_learning_rate: float
    """Peak rate when the fit starts from a champion instead of from nothing."""
    batch_size: int
    """Predicted clicks per step."""
    epochs: int
    """At least so many."""
    patience: int
    """Stop after so many epochs without a better validation loss."""
    weight_decay: float
    steps: int = 0
    """On a log where `epochs` make fewer steps, as many epochs as make about so many."""
    stride: int = 8
    """For a BST, see `segments`."""
    regularisation: Regularisation | None = None
    """For a BST; None: chosen by how many clicks there are per item."""
    loss: Literal["cross_entropy", "bce"] = "cross_entropy"
    """For a source BST: softmax over target and negatives, or clicked or not per candidate."""
    negatives: int = 1
    """For a source BST: random items per target."""
    sampling: Literal["temporal", "source"] = "temporal"
    """source: the source's own labelled table and random 80/20 split (dataset.source_samples).
    It leaks, so it is for reproducing the source's figures and nothing else."""

    def config(self, items: int, clicks: int) -> BSTConfig | SourceBSTConfig:
        """The model's shape for a catalogue of `items` and so many training clicks."""
        config = self.shape.model_copy(update={"items": items})
        if isinstance(config, SourceBSTConfig):
            return config
        chosen = self.regularised(items, clicks)
        return config.model_copy(
            update={"dropout": chosen.dropout, "embed_dropout": chosen.embed_dropout}
        )

    def regularised(self, items: int, clicks: int) -> Regularisation:
        """What a BST is regularised with on so many items and training clicks."""
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
    # The source's model and loss: feed-forward 2048 (torch's default), one negative per click.
    name="source",
    shape=SourceBSTConfig(items=1, feedforward=2048),
    loss="bce",
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
    """Look a preset up; raises ConfigurationError that lists them."""
    try:
        return PRESETS[name]
    except KeyError:
        raise ConfigurationError(
            f"the preset {name!r} (NEXTCLICK_TRAINER__PRESET or --preset) is not known; "
            f"use one of {', '.join(PRESETS)}"
        ) from None
