"""Small things that many unit tests need."""

from __future__ import annotations

import numpy as np
import torch

from shared.bst import BST, BSTConfig
from shared.checkpoint import Checkpoint, Vocabulary

CPU = torch.device("cpu")


def checkpoint(items: int = 30, seed: int = 0) -> Checkpoint:
    """A model with random weights over items "1", "2", …; "1" is the most popular."""
    torch.manual_seed(seed)
    config = BSTConfig(items=items, embed_dim=16, heads=2, layers=2, feedforward=32, tower=24)
    return Checkpoint(
        model=BST(config).eval(),
        vocabulary=Vocabulary([str(i) for i in range(1, items + 1)]),
        popularity=np.arange(items, 0, -1),
        preset="default",
        parent=None,
        metrics={"test_hr@10": 0.5},
        training={"clicks": 7},
    )
