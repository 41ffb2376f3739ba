"""What counting gives a BST: item neighbours with a vote, and item vectors to start from."""

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

_REACH = 4.0
"""Clicks over which being near fades, as in the sessions of V-SkNN."""
_RANDOM_PART = 0.1
_CONTEXT_POWER = 0.75
"""Levy et al.: smooths how often items are clicked, so that rare ones do not stand out."""


Table: TypeAlias = scipy.sparse.csr_matrix
"""Shape [items, items]: how much two items are clicked near each other; the diagonal holds items
that were clicked again."""


def count_pairs(sessions: Sessions, items: int) -> Table:
    """Count pairs clicked within HISTORY_LENGTH of each other, weighted exp(−distance / _REACH).

    Both directions count alike: on real clicks that was better than successors only, as people
    compare things back and forth.
    """
    index = np.arange(len(sessions.rows))
    table = Table((items, items))
    for distance in range(1, HISTORY_LENGTH + 1):
        later = index[index - sessions.starts >= distance]
        pair = (sessions.rows[later - distance] - 1, sessions.rows[later] - 1)
        weight = np.full(len(later), np.exp(-distance / _REACH))
        table += Table((weight, pair), (items, items))
    return (table + table.T).tocsr()


def set_neighbours(neighbours: ItemNeighbours, table: Table, clicks: IntArray) -> None:
    """Set rows and shares to each item's largest counts, of rare items more than of popular ones.

    clicks: shape [items], how often each item was clicked. Every click is near itself, so an item
    is among its own neighbours, the more so the less company its clicks had; an item that was never
    clicked is alone there.
    """
    clicks = np.maximum(clicks, 1)
    rarity = scipy.sparse.diags(np.log1p(clicks.sum() / clicks))
    weighted = ((table + scipy.sparse.diags(clicks.astype(np.float64))) @ rarity).tocsr()
    total = np.asarray(weighted.sum(axis=1))
    best, weight = _largest(weighted, neighbours.rows.shape[1])
    neighbours.rows[1:] = torch.from_numpy(best)
    neighbours.shares[1:] = torch.from_numpy(weight / total)


def item_vectors(table: Table, dimensions: int) -> torch.Tensor:
    """Vectors of items by what they are clicked with: shape [items, dimensions], of length 1.

    A truncated singular value decomposition of the positive pointwise mutual information
    (Levy, Goldberg and Dagan, "Improving Distributional Similarity with Lessons Learned from Word
    Embeddings", 2015). Items that were clicked alone get zeros. Draws from torch's generator.
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
    """Set the embeddings of all items after the first `known` to where counting puts them.

    With nothing known, all come from `item_vectors`. Beside items that a champion has trained, a
    new one starts amid its neighbours. Both keep some of their random beginning, which alone places
    items that counting knows nothing of.
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


def _largest(table: Table, per_item: int) -> tuple[IntArray, npt.NDArray[np.float64]]:
    """The columns (as catalogue rows) and values of each row's largest: both [items, per_item]."""
    row = np.repeat(np.arange(table.shape[0]), np.diff(table.indptr))
    order = np.lexsort((table.indices, -table.data, row))
    place = np.arange(len(row)) - table.indptr[row]  # rank within the row, as `order` sorts by row
    kept = place < per_item
    best = np.zeros((table.shape[0], per_item), np.int64)
    weight = np.zeros((table.shape[0], per_item))
    best[row[kept], place[kept]] = table.indices[order][kept] + 1
    weight[row[kept], place[kept]] = table.data[order][kept]
    return best, weight
