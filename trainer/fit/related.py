"""Related items of a fitted model: similar items, and items bought together.

**Bought together** are two items by how many users bought both within HISTORY_LENGTH purchases of a
session, n_ij, beside how many bought each, n_i and n_j:

    n_ij / √((n_i + SHRINKAGE) · (n_j + SHRINKAGE))

That is the cosine of Item-kNN with its damping (Hidasi et al., "Session-based Recommendations with
Recurrent Neural Networks", 2016). The roots keep popular items from filling every list, the
damping keeps out what few users did by chance. A user counts once for a pair, so that a bot cannot
relate two items by repeating itself. For an item without such a pair all clicks count instead.

**Similar** are two items by the same measure over all clicks, plus VECTOR_WEIGHT times the cosine
of the model's vectors: counts decide where there are many, vectors where there are few.
docs/related.md has how well each of them predicts.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.sparse
import torch
from torch import Tensor
from torch.nn import functional

from nextclick.shared.event_types import is_purchase
from nextclick.shared.model import SessionModel, Vocabulary
from nextclick.shared.model.related import MAX_RELATED, ItemLists, RelatedLists
from nextclick.shared.windows import HISTORY_LENGTH, PADDING, IntArray
from nextclick.trainer.data import ClickLog
from nextclick.trainer.fit.cooccurrence import Table

SHRINKAGE = 20.0
VECTOR_WEIGHT = 0.05
_ROWS_AT_ONCE = 20_000
_CLUSTER = 512
"""Items in a cluster of vectors, on average."""
_PROBES = 16
"""Clusters in which an item's nearest are looked for."""
_LLOYD_STEPS = 2
_SCORES_AT_ONCE = 8_000_000


def related_lists(log: ClickLog, vocabulary: Vocabulary, model: SessionModel) -> RelatedLists:
    """The related items of a model that was fitted on a log; all clicks of the log count."""
    rows = vocabulary.rows(log.item_ids)[log.items]
    clicked = cosines(log, rows, len(vocabulary))
    bought = cosines(log, np.where(_purchases(log), rows, PADDING), len(vocabulary))
    by_purchases = np.diff(bought.indptr) > 0
    with torch.inference_mode():
        vectors = model.item_vectors().float().cpu()
    return RelatedLists(
        similar=_similar(clicked, vectors),
        bought_together=closest(_rows_of(bought, clicked, by_purchases)),
        by_purchases=by_purchases,
    )


def _purchases(log: ClickLog) -> npt.NDArray[np.bool_]:
    """Bool [N]: which clicks of the log are purchases."""
    if log.event_types is None:
        return np.zeros(len(log.items), bool)
    bought_by = {name: is_purchase(name) for name in set(log.event_types)}
    return np.array([bought_by[name] for name in log.event_types], bool)


def _rows_of(one: Table, other: Table, chosen: npt.NDArray[np.bool_]) -> Table:
    """The rows of `one` that are chosen, and the others of `other`."""
    mask = chosen.astype(np.float64)
    table = (scipy.sparse.diags(mask) @ one + scipy.sparse.diags(1 - mask) @ other).tocsr()
    table.eliminate_zeros()
    return table


def cosines(log: ClickLog, rows: IntArray, items: int) -> Table:
    """How closely items are related: [items, items], symmetric, 0 on the diagonal, all below 1.

    rows: shape [N], the catalogue row of each click of the log; PADDING: it does not count.
    """
    counted = rows != PADDING
    columns, users, sessions = rows[counted] - 1, log.users[counted], log.starts[counted]
    pairs, of_users = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for distance in range(1, HISTORY_LENGTH + 1):
        first, second = columns[:-distance], columns[distance:]
        pair = (sessions[:-distance] == sessions[distance:]) & (first != second)
        low, high = np.minimum(first, second)[pair], np.maximum(first, second)[pair]
        pairs.append(low * items + high)
        of_users.append(users[distance:][pair])
    pair, together = _users_per(np.concatenate(pairs), np.concatenate(of_users))
    item, alone = _users_per(columns, users)
    clicked_by = np.zeros(items)
    clicked_by[item] = alone
    scale = 1 / np.sqrt(clicked_by + SHRINKAGE)
    first, second = pair // items, pair % items
    values = together * scale[first] * scale[second]
    half = Table((values, (first, second)), (items, items))
    return (half + half.T).tocsr()


def _users_per(things: IntArray, users: IntArray) -> tuple[IntArray, IntArray]:
    """Each different thing, ascending, and the number of its different users. Both [N]."""
    order = np.lexsort((users, things))
    things, users = things[order], users[order]
    new = np.r_[True, (things[1:] != things[:-1]) | (users[1:] != users[:-1])][: len(things)]
    return np.unique(things[new], return_counts=True)


def closest(table: Table) -> ItemLists:
    """The MAX_RELATED largest values of each row, largest first; among ties, the lower columns."""
    owner = np.repeat(np.arange(table.shape[0]), np.diff(table.indptr))
    order = np.lexsort((table.indices, -table.data, owner))
    place = np.arange(len(owner)) - table.indptr[owner]  # within the row, as `order` sorts by it
    kept = order[place < MAX_RELATED]
    lengths = np.minimum(np.diff(table.indptr), MAX_RELATED)
    return ItemLists(
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        (table.indices[kept] + 1).astype(np.int32),
        table.data[kept].astype(np.float32),
    )


def _similar(clicked: Table, vectors: Tensor) -> ItemLists:
    """The lists of similar items; candidates are the closest by clicks, and by vectors."""
    items = len(vectors)
    by_vectors = nearest(vectors, MAX_RELATED)
    parts = []
    for start in range(0, items, _ROWS_AT_ONCE):
        block = clicked[start : start + _ROWS_AT_ONCE]
        by_clicks = closest(block)
        size, count = block.shape[0], by_vectors.shape[1]
        owner = np.repeat(np.arange(size), np.diff(by_clicks.bounds))
        pairs = np.union1d(
            owner * items + by_clicks.rows - 1,
            np.repeat(np.arange(size), count) * items + by_vectors[start : start + size].ravel(),
        )
        first, second = pairs // items, pairs % items
        counted = np.asarray(block[first, second]).ravel()
        cosine = _cosines_of(vectors, first + start, second)
        values = (counted + VECTOR_WEIGHT * cosine) / (1 + VECTOR_WEIGHT)
        parts.append(closest(Table((values, (first, second)), block.shape)))
    lengths = np.concatenate([np.diff(part.bounds) for part in parts])
    return ItemLists(
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.concatenate([part.rows for part in parts]),
        np.concatenate([part.scores for part in parts]),
    )


def _cosines_of(vectors: Tensor, first: IntArray, second: IntArray) -> npt.NDArray[np.float64]:
    """The cosines of pairs of unit vectors, 0 for those below: shape [M]."""
    a, b = vectors[torch.from_numpy(first)], vectors[torch.from_numpy(second)]
    return (a * b).sum(dim=1).clamp_(min=0.0).double().numpy()


def nearest(vectors: Tensor, k: int) -> npt.NDArray[np.int64]:
    """The columns of the k vectors with the largest cosines to each, without itself: [items, k].

    vectors: unit vectors [items, d]. Up to _CLUSTER · _PROBES items the result is exact. Of more it
    looks into the _PROBES nearest clusters only (an inverted file; Sivic and Zisserman, "Video
    Google", 2003), so the time grows with items, not with their square.
    """
    items = len(vectors)
    k = min(k, items - 1)
    centres, members = _clusters(vectors, max(1, items // _CLUSTER))
    sizes = torch.tensor([len(own) for own in members])
    order = (centres @ centres.T).argsort(dim=1, descending=True, stable=True)
    found = np.zeros((items, k), np.int64)
    for own, nearest_first in zip(members, order, strict=True):
        enough = int((sizes[nearest_first].cumsum(0) <= k).sum()) + 1
        probes = nearest_first[: max(_PROBES, enough)].tolist()
        candidates = torch.cat([members[number] for number in probes])
        targets = vectors[candidates].T
        for part in torch.split(own, max(1, _SCORES_AT_ONCE // len(candidates))):
            scores = vectors[part] @ targets
            scores[candidates == part[:, None]] = -torch.inf
            best = torch.topk(scores, k, dim=1).indices
            found[part.numpy()] = candidates[best].numpy()
    return found


def _clusters(vectors: Tensor, count: int) -> tuple[Tensor, list[Tensor]]:
    """Spherical k-means: unit centres [count, d], and the columns in the cluster of each."""

    def assigned(centres: Tensor) -> Tensor:
        blocks = torch.split(vectors, max(1, _SCORES_AT_ONCE // count))
        return torch.cat([(block @ centres.T).argmax(dim=1) for block in blocks])

    chosen = np.random.default_rng(0).choice(len(vectors), count, replace=False)
    centres = vectors[torch.from_numpy(chosen)]
    for _ in range(_LLOYD_STEPS):
        sums = torch.zeros_like(centres).index_add_(0, assigned(centres), vectors)
        centres = functional.normalize(sums, dim=1)
    cluster = assigned(centres)
    sizes = torch.bincount(cluster, minlength=count).tolist()
    return centres, list(torch.split(cluster.argsort(stable=True), sizes))
