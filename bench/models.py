"""Models for benchmarks: the default preset with random weights."""

from __future__ import annotations

import numpy as np
import torch

from nextclick.bench.traffic import item_id
from nextclick.shared.model import BST, Checkpoint, Vocabulary
from nextclick.shared.model.checkpoint import build
from nextclick.trainer.fit.presets import preset

CLICKS = 1_000_000
"""Number of training clicks to assume; the preset's regularisation depends on it."""


def random_checkpoint(items: int, seed: int = 0) -> Checkpoint:
    """A model with random weights and neighbours; it is as fast as a trained one."""
    torch.manual_seed(seed)
    model = build(preset("default").config(items, CLICKS))
    assert isinstance(model, BST)
    model.neighbours.rows.random_(1, items + 1)
    model.neighbours.shares[1:] = 1.0 / model.config.neighbours
    model.neighbours.weight.fill_(0.1)
    vocabulary = Vocabulary([item_id(row) for row in range(1, items + 1)])
    return Checkpoint(model, vocabulary, np.arange(items, 0, -1), "default", None, {}, {})
