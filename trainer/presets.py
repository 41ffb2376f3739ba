"""Named recipes: the shape of the model and how it is fitted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from shared.bst import BSTConfig
from shared.errors import ConfigurationError


@dataclass(frozen=True)
class Preset:
    """One recipe."""

    name: str
    feedforward: int
    loss: Literal["cross_entropy", "bce"]
    """cross_entropy: the target against the catalogue; bce: clicked or not, per candidate."""
    negatives: int
    """Sampled items per target. For cross_entropy, catalogues up to this size are not sampled
    at all: the target competes with every item."""
    learning_rate: float
    warm_learning_rate: float
    """Peak rate when the fit starts from a champion instead of from nothing."""
    batch_size: int
    epochs: int
    patience: int
    """Stop after so many epochs without a better validation loss."""
    embed_dim: int = 64
    heads: int = 4
    layers: int = 2
    tower: int = 128
    dropout: float = 0.2
    weight_decay: float = 0.01
    sampling: Literal["temporal", "source"] = "temporal"
    """source: the source's own labelled table and random 80/20 split (dataset.source_samples).
    It leaks, so it is for reproducing the source's figures and nothing else."""

    def config(self, items: int) -> BSTConfig:
        """The model's shape for a catalogue of `items`."""
        return BSTConfig(
            items=items,
            embed_dim=self.embed_dim,
            heads=self.heads,
            layers=self.layers,
            feedforward=self.feedforward,
            tower=self.tower,
            dropout=self.dropout,
        )


DEFAULT = Preset(
    name="default",
    feedforward=128,
    loss="cross_entropy",
    negatives=512,
    learning_rate=3e-3,
    warm_learning_rate=5e-4,
    batch_size=512,
    epochs=6,
    patience=2,
)

SOURCE = Preset(
    # The source's model and loss: feed-forward 2048 (torch's default), one negative per click.
    name="source",
    feedforward=2048,
    loss="bce",
    negatives=1,
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
