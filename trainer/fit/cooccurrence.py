"""Co-click counts of a log: a BST's item neighbours, and initial item vectors from them."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import scipy.sparse
import torch
from torch.nn import functional

from nextclick.shared.model import BST, ItemNeighbours
from nextclick.shared.windows import HISTORY_LENGTH, IntArray
from nextclick.trainer.data import Sessions

PAIR_REACH = 4.0
"""Decay length of the weight of a pair, in clicks."""
_RANDOM_PART = 0.1
"""Weight of the random initialisation in an initial item vector."""
_CONTEXT_POWER = 0.75
"""Exponent that smooths context frequencies, so that rare items do not dominate (Levy et al.)."""


Table: TypeAlias = scipy.sparse.csr_matrix
"""Shape [items, items]: weighted counts of two items clicked near each other; on the diagonal, of
items clicked again."""


def count_pairs(sessions: Sessions, items: int) -> Table:
    """Count pairs within HISTORY_LENGTH clicks of each other, weighted exp(−distance / PAIR_REACH).

    The table is symmetric: on real clicks this was better than counting successors only, because
    shoppers compare items back and forth.
    """
    index = np.arange(len(sessions.rows))
    table = Table((items, items))
    for distance in range(1, HISTORY_LENGTH + 1):
        later = index[index - sessions.starts >= distance]
        pair = (sessions.rows[later - distance] - 1, sessions.rows[later] - 1)
        weight = np.full(len(later), np.exp(-distance / PAIR_REACH))
        table += Table((weight, pair), (items, items))
    return (table + table.T).tocsr()


def set_neighbours(neighbours: ItemNeighbours, table: Table, clicks: IntArray) -> None:
    """Set each item's neighbours to those with the largest counts, weighted by rarity.

    clicks: shape [items], clicks per item. Each click also counts as a pair with itself, so an item
    is one of its own neighbours, with a larger share if it was clicked alone. An item without
    clicks has only itself as a neighbour.
    """
    clicks = np.maximum(clicks, 1)
    rarity = scipy.sparse.diags(np.log1p(clicks.sum() / clicks))
    weighted = ((table + scipy.sparse.diags(clicks.astype(np.float64))) @ rarity).tocsr()
    total = np.asarray(weighted.sum(axis=1))
    best, weight = largest(weighted, neighbours.rows.shape[1])
    neighbours.rows[1:] = torch.from_numpy(best)
    neighbours.shares[1:] = torch.from_numpy(weight / total)


def item_vectors(table: Table, dimensions: int) -> torch.Tensor:
    """Unit item vectors from the pairs of a table: shape [items, dimensions].

    A truncated singular value decomposition of the positive pointwise mutual information
    (Levy, Goldberg and Dagan, "Improving Distributional Similarity with Lessons Learned from Word
    Embeddings", 2015). Items without pairs get zeros. Uses torch's random generator.
    """
    items = table.shape[0]
    result = torch.zeros(items, dimensions)
    if table.nnz == 0:
        return result
    share = np.asarray(table.sum(axis=1)).ravel() / table.sum()
    table = table.tocoo()
    context = share**_CONTEXT_POWER / (share**_CONTEXT_POWER).sum()
    information = np.log(table.data / table.sum() / (share[table.row] * context[table.col]))
    positive = information > 0
    matrix = torch.sparse_coo_tensor(
        torch.from_numpy(np.stack([table.row[positive], table.col[positive]]).astype(np.int64)),
        torch.from_numpy(information[positive].astype(np.float32)),
        (items, items),
        check_invariants=True,
    ).coalesce()
    left, values, _ = torch.svd_lowrank(matrix, q=min(dimensions, items), niter=2)
    result[:, : len(values)] = functional.normalize(left * values.sqrt(), dim=1)
    result[torch.from_numpy(share == 0)] = 0.0
    return result


def initialise_item_vectors(model: BST, table: Table, known: int) -> None:
    """Initialise the embeddings of all items after the first `known`, which a champion trained.

    With known = 0, they come from `item_vectors`. Otherwise a new item starts at the weighted mean
    of the trained items that it is clicked with. In both cases a part of the random initialisation
    is added; items without pairs keep only that.
    """
    weight = model.network.item_embedding.weight.detach()
    if known == 0:
        counted = item_vectors(table, model.config.embed_dim)
    else:
        trained = functional.normalize(weight[1 : known + 1], dim=1)
        sums = table[known:, :known].astype(np.float32) @ trained.numpy()
        counted = functional.normalize(torch.from_numpy(sums), dim=1)
    random = functional.normalize(weight[known + 1 :], dim=1)
    weight[known + 1 :] = functional.normalize(counted + _RANDOM_PART * random, dim=1)


def largest(table: Table, per_item: int) -> tuple[IntArray, npt.NDArray[np.float64]]:
    """The largest values of each row, and their catalogue rows: (rows, values), [items, per_item].

    Missing ones are 0.
    """
    row = np.repeat(np.arange(table.shape[0]), np.diff(table.indptr))
    order = np.lexsort((table.indices, -table.data, row))
    place = np.arange(len(row)) - table.indptr[row]  # rank within the row, as `order` sorts by row
    kept = place < per_item
    best = np.zeros((table.shape[0], per_item), np.int64)
    weight = np.zeros((table.shape[0], per_item))
    best[row[kept], place[kept]] = table.indices[order][kept] + 1
    weight[row[kept], place[kept]] = table.data[order][kept]
    return best, weight
