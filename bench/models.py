"""Models for benchmarks: the default preset with random weights."""

from __future__ import annotations

import numpy as np
import torch

from nextclick.bench.traffic import item_id
from nextclick.shared.model import BST, Checkpoint, Vocabulary
from nextclick.shared.model.checkpoint import build
from nextclick.shared.model.delta import Delta
from nextclick.trainer.fit.presets import preset

CLICKS = 1_000_000
"""Number of training clicks to assume; the preset's regularisation depends on it."""


_TOUCHED = 2_000
_NEW_ITEMS = 10


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


def random_delta(base: Checkpoint, version: str, sha256: str, number: int) -> Delta:
    """A delta of a version as its learner makes them: 2,000 items clicked lately, ten of them new.

    sha256: of the version's weights. It chooses what it touches at random, by its number.
    """
    rng, items = np.random.default_rng(number), len(base.vocabulary)
    assert isinstance(base.model, BST)
    neighbours, all_items = base.model.config.neighbours, items + _NEW_ITEMS
    known = 1 + rng.choice(items, min(items, _TOUCHED), replace=False)
    touched = np.concatenate([np.sort(known), np.arange(items + 1, all_items + 1)])
    rows = torch.from_numpy(rng.integers(1, all_items + 1, (len(touched), neighbours)))
    return Delta(
        version,
        sha256,
        number,
        [f"new-{n}" for n in range(_NEW_ITEMS)],
        touched,
        rows.int(),
        torch.full((len(touched), neighbours), 1.0 / neighbours),
        0.5,
        rng.integers(1, 1000, len(touched)),
    )
