"""What counting gives a BST: item neighbours with a vote, and item vectors to start from."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.sparse
import torch
from torch.nn import functional

from shared.bst import BST
from shared.neighbours import ItemNeighbours
from shared.windows import HISTORY_LENGTH, IntArray
from trainer.dataset import Samples
from trainer.sessions import Sessions

WEIGHT_WITHOUT_VALIDATION = 0.1
_EM_STEPS = 50
_RANDOM_PART = 0.1
_CONTEXT_POWER = 0.75
"""Levy et al.: smooths how often items are clicked, so that rare ones do not stand out."""
_BATCH = 256


def count(sessions: Sessions, neighbours: ItemNeighbours) -> None:
    """Set rows and shares: clicks within HISTORY_LENGTH of each other, weighted 1/distance.

    Both directions count alike: on real clicks that was better than successors only, as people
    compare things back and forth.
    """
    items = len(neighbours.rows) - 1
    per_item = neighbours.rows.shape[1]
    table = _near(sessions, items)
    best, weight = _largest(table, per_item)
    total = weight.sum(axis=1, keepdims=True)
    neighbours.rows[1:] = torch.from_numpy(best)
    neighbours.shares[1:] = torch.from_numpy(weight / np.maximum(total, 1e-9))


def item_vectors(sessions: Sessions, items: int, dimensions: int) -> torch.Tensor:
    """Vectors of items by what they are clicked with: shape [items, dimensions], of length 1.

    A truncated singular value decomposition of the positive pointwise mutual information
    (Levy, Goldberg and Dagan, "Improving Distributional Similarity with Lessons Learned from Word
    Embeddings", 2015). Items that were clicked alone get zeros. Draws from torch's generator.
    """
    table = _near(sessions, items).tocoo()
    result = torch.zeros(items, dimensions)
    if table.nnz == 0:
        return result
    share = np.asarray(table.sum(axis=1)).ravel() / table.sum()
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


def place_items(model: BST, sessions: Sessions, known: int) -> None:
    """Set the embeddings of all items after the first `known` to where counting puts them.

    With nothing known, all come from `item_vectors`. Beside items that a champion has trained, a
    new one starts amid its neighbours. Both keep some of their random beginning, which alone
    places items that counting knows nothing of.
    """
    items = model.config.items
    random = functional.normalize(model.item_embedding.weight[known + 1 :].detach(), dim=1)
    if known == 0:
        counted = item_vectors(sessions, items, model.config.embed_dim)
    else:
        trained = functional.normalize(model.item_embedding.weight[: known + 1].detach(), dim=1)
        table = _near(sessions, items)[known:, :known].tocsr().astype(np.float32)
        counted = functional.normalize(torch.from_numpy(table @ trained[1:].numpy()), dim=1)
    with torch.no_grad():
        model.item_embedding.weight[known + 1 :] = functional.normalize(
            counted + _RANDOM_PART * random, dim=1
        )


def _near(sessions: Sessions, items: int) -> scipy.sparse.csr_matrix:
    """Pairs clicked within HISTORY_LENGTH of each other, both ways, weighted 1/distance."""
    index = np.arange(len(sessions.rows))
    table = scipy.sparse.csr_matrix((items, items))
    for distance in range(1, HISTORY_LENGTH + 1):
        later = index[index - sessions.starts >= distance]
        pair = (sessions.rows[later - distance] - 1, sessions.rows[later] - 1)
        near = np.full(len(later), 1.0 / distance)
        table += scipy.sparse.csr_matrix((near, pair), (items, items))
    return (table + table.T).tocsr()


def _largest(
    table: scipy.sparse.csr_matrix, per_item: int
) -> tuple[IntArray, npt.NDArray[np.float64]]:
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


def weigh(model: BST, validation: Samples, device: torch.device) -> None:
    """Set the neighbours' weight to what makes the validation clicks likeliest.

    A mixture of two fixed distributions has one maximum; expectation maximisation (Dempster et
    al., 1977) finds it.
    """
    if len(validation) == 0:
        model.neighbours.weight.fill_(WEIGHT_WITHOUT_VALIDATION)
        return
    by_network, by_neighbours = [], []
    with torch.inference_mode():
        catalogue = model.catalogue()
        for start in range(0, len(validation), _BATCH):
            batch = validation.take(np.arange(start, min(start + _BATCH, len(validation))))
            histories = torch.from_numpy(batch.histories).to(device)
            target = torch.from_numpy(batch.targets - 1).to(device).unsqueeze(1)
            network = torch.softmax(model.network_logits(histories, catalogue), dim=1)
            by_network.append(network.gather(1, target))
            by_neighbours.append(model.neighbours.votes(histories).gather(1, target))
    network, votes = torch.cat(by_network).double(), torch.cat(by_neighbours).double()
    weight = 0.2
    for _ in range(_EM_STEPS):
        mixed = weight * votes
        weight = float((mixed / (mixed + (1 - weight) * network).clamp(min=1e-30)).mean())
    model.neighbours.weight.fill_(weight)
