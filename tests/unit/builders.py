"""Small things that many unit tests need."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from nextclick.services.simulator.shop import Clicks
from nextclick.services.simulator.world import World
from nextclick.shared.model import BST, BSTConfig, Checkpoint, ItemNeighbours, Vocabulary
from nextclick.shared.model.related import ItemLists, RelatedLists
from nextclick.shared.windows import PADDING
from nextclick.trainer.data import Samples
from nextclick.trainer.evaluate import Evaluation, FloatArray, evaluate

CPU = torch.device("cpu")


def bst(items: int = 30) -> BST:
    """A small model with random weights, every part of which has its say."""
    model = BST(
        BSTConfig(items=items, embed_dim=16, heads=2, layers=2, feedforward=32, neighbours=5)
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("repeat.weight", "distance_bias", "about_bias")):
                parameter.normal_()
    model.about_share.fill_(0.3)
    neighbours = model.neighbours
    neighbours.rows.random_(1, items + 1)
    neighbours.shares.uniform_()
    neighbours.shares /= neighbours.shares.sum(dim=1, keepdim=True)
    neighbours.shares[PADDING] = 0.0
    neighbours.weight.fill_(0.2)
    return model


def votes(neighbours: ItemNeighbours, histories: Tensor) -> Tensor:
    """P(next click) by neighbours alone, for windows [B, HISTORY_LENGTH]: [B, items]."""
    columns, shares = neighbours.sparse_votes(histories)
    result = torch.zeros(len(histories), len(neighbours.rows) - 1)
    return result.scatter_add_(1, columns, shares)


def source_clicks(world: World, interactions: int, seed: int) -> Clicks:
    """The clicks among the first `interactions` of the source world's traffic."""
    chunks = []
    for chunk in world.traffic(seed):
        wanted = chunk.interactions < interactions
        chunks.append([column[wanted] for column in chunk])
        if not wanted.all():
            return Clicks(*(np.concatenate(columns) for columns in zip(*chunks, strict=True)))
    raise AssertionError("traffic has no end")


def checkpoint(items: int = 30, seed: int = 0) -> Checkpoint:
    """A model with random weights over items "1", "2", …; "1" is the most popular."""
    torch.manual_seed(seed)
    return Checkpoint(
        model=bst(items).eval(),
        vocabulary=Vocabulary([str(i) for i in range(1, items + 1)]),
        popularity=np.arange(items, 0, -1),
        preset="default",
        parent=None,
        metrics={"test_hr@10": 0.5},
        training={"clicks": 7},
    )


def related_lists(items: int = 30) -> RelatedLists:
    """Of each item the next 29 are similar, and five bought together, of odd rows by purchases.

    After the last one comes the first.
    """

    def following(count: int) -> ItemLists:
        rows = (np.arange(items)[:, None] + np.arange(1, count + 1)) % items + 1
        scores = np.broadcast_to(1 / np.arange(2, count + 2), rows.shape)
        return ItemLists(
            np.arange(items + 1) * count,
            rows.ravel().astype(np.int32),
            scores.ravel().astype(np.float32),
        )

    is_odd = np.arange(1, items + 1) % 2 == 1
    return RelatedLists(following(min(29, items - 1)), following(5), is_odd)


def evaluate_scores(scores: FloatArray, cases: Samples, **options: bool) -> Evaluation:
    """Evaluate a score matrix [M, items] whose rows belong to the cases in order."""
    rows = iter(scores)
    return evaluate(
        lambda part: np.stack(list(itertools.islice(rows, len(part)))),
        np.ones(scores.shape[1], np.int64),
        cases,
        **options,
    )
