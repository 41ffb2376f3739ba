"""A delta: what the clicks since a model was trained change about it, until the next retraining.

A delta belongs to one version, its base, and replaces the delta before it, so only the newest is
needed. It holds new rows of the item neighbours, how much these have to say, items that the base
does not know, and new counts of users per item; the network stays as it is. `applied` is a function
of base and delta, so whoever has both can compute a list again.
"""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import dataclass

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional

from nextclick.shared.errors import CheckpointError
from nextclick.shared.model.bst import BST
from nextclick.shared.model.checkpoint import Checkpoint, are_item_ids
from nextclick.shared.version_names import name_of
from nextclick.shared.windows import PADDING, IntArray

MAX_NEW_ITEMS = 10_000
MAX_ROWS = 50_000
"""Most neighbour rows of a delta; with 50 neighbours they are 20 MB."""
_DIGEST_BYTES = 32
_TENSORS = {
    "touched": torch.int64,
    "rows": torch.int32,
    "shares": torch.float32,
    "weight": torch.float32,
    "users": torch.int64,
}


@dataclass(frozen=True)
class Delta:
    """What changes about a base with N items of K neighbours each. T rows are touched."""

    base: str
    """Version."""
    base_sha256: str
    """Of the base's weights."""
    number: int
    """Higher than that of the delta before it: when it was made, epoch seconds."""
    new_items: list[str]
    """The items of rows N + 1, N + 2, …"""
    touched: IntArray
    """Shape [T]: rows whose neighbours and users change, ascending. New items are among them."""
    rows: Tensor
    """Shape [T, K], int32: as `ItemNeighbours.rows`, of the longer catalogue."""
    shares: Tensor
    """Shape [T, K], as `ItemNeighbours.shares`."""
    weight: float
    """As `ItemNeighbours.weight`."""
    users: IntArray
    """Shape [T]: users per item, those of the base included."""
    forget_count: int = 0
    """As in the training data of a version: how many users had been forgotten."""


def to_bytes(delta: Delta) -> bytes:
    """Serialise: the SHA-256 of what follows, 32 bytes, and safetensors."""
    about = {
        "base": delta.base,
        "base_sha256": delta.base_sha256,
        "number": str(delta.number),
        "new_items": json.dumps(delta.new_items),
        "forget_count": str(delta.forget_count),
    }
    tensors = {
        "touched": torch.from_numpy(delta.touched),
        "rows": delta.rows.contiguous(),
        "shares": delta.shares.contiguous(),
        "weight": torch.tensor([delta.weight]),
        "users": torch.from_numpy(delta.users),
    }
    content = safetensors.torch.save(tensors, about)
    return hashlib.sha256(content).digest() + content


def from_bytes(content: bytes) -> Delta:
    """Read a delta and check it by itself; `applied` checks that it fits its base.

    Raises CheckpointError for anything but a delta within its bounds, of finite numbers.
    """
    digest, content = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != digest:
        raise CheckpointError("a delta does not match its SHA-256")
    try:
        tensors = safetensors.torch.load(content)
        size = int.from_bytes(content[:8], "little")
        about = json.loads(content[8 : 8 + size])["__metadata__"]
        new_items = json.loads(about["new_items"])
        delta = Delta(
            base=about["base"],
            base_sha256=about["base_sha256"],
            number=int(about["number"]),
            new_items=new_items,
            touched=tensors["touched"].numpy(),
            rows=tensors["rows"],
            shares=tensors["shares"],
            weight=float(tensors["weight"][0]),
            users=tensors["users"].numpy(),
            forget_count=int(about["forget_count"]),
        )
        types = {name: tensor.dtype for name, tensor in tensors.items()}
    except (SafetensorError, ValueError, KeyError, IndexError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"a delta cannot be read: {str(error)[:200]}") from None
    touched = len(delta.touched)
    if (
        types != _TENSORS
        or not 0 < touched <= MAX_ROWS
        or not 0 <= delta.weight < 1
        or delta.touched.shape != (touched,)
        or delta.users.shape != (touched,)
        or delta.rows.ndim != 2
        or delta.rows.shape != delta.shares.shape
        or len(delta.rows) != touched
        or (np.diff(delta.touched) <= 0).any()
        or (delta.users < 0).any()
        or not delta.shares.isfinite().all()
        or (delta.shares < 0).any()
        or (delta.shares.sum(dim=1) > 1 + 1e-4).any()
        or not isinstance(new_items, list)
        or len(new_items) > MAX_NEW_ITEMS
    ):
        raise CheckpointError(f"the delta {name_of(delta.base, delta.number)} is broken")
    return delta


def applied(delta: Delta, base: Checkpoint) -> Checkpoint:
    """The base with a delta, on the base's device. It shares all tensors that do not change.

    A new item's vector is the mean of its known neighbours', weighted by their shares. Raises
    CheckpointError if the delta does not fit this base.
    """
    model, known = base.model, len(base.vocabulary)
    items = known + len(delta.new_items)
    new = np.arange(known + 1, items + 1)
    if (
        not isinstance(model, BST)
        or delta.rows.shape[1] != model.neighbours.rows.shape[1]
        or delta.touched[0] <= PADDING
        or delta.touched[-1] > items
        or not np.isin(new, delta.touched).all()
        or not ((delta.rows >= PADDING) & (delta.rows <= items)).all()
        or not are_item_ids([*base.vocabulary.item_ids, *delta.new_items], items)
    ):
        raise CheckpointError(f"{name_of(delta.base, delta.number)} does not fit its base")
    shared = model.state_dict(keep_vars=True).values()
    changed: BST = copy.deepcopy(model, {id(tensor): tensor for tensor in shared})
    neighbours, device = changed.neighbours, model.about_share.device
    at = torch.from_numpy(delta.touched).to(device)
    for name, values in (("rows", delta.rows), ("shares", delta.shares)):
        table = getattr(neighbours, name)
        longer = functional.pad(table, (0, 0, 0, len(new))) if len(new) else table.clone()
        setattr(neighbours, name, longer.index_copy_(0, at, values.to(device)))
    neighbours.weight = torch.tensor(delta.weight, device=device)
    vocabulary = base.vocabulary
    if len(new):
        changed.config = changed.config.model_copy(update={"items": items})
        embedding = changed.network.item_embedding
        vectors = _new_vectors(neighbours.rows[new], neighbours.shares[new], embedding.weight)
        changed.network.item_embedding = nn.Embedding(
            items + 1,
            vectors.shape[1],
            padding_idx=PADDING,
            _weight=torch.cat([embedding.weight.detach(), vectors]),
        )
        vocabulary = vocabulary.extended(delta.new_items)
    popularity = np.concatenate([base.popularity, np.zeros(len(new), np.int64)])
    popularity[delta.touched - 1] = delta.users
    return Checkpoint(
        changed.eval(),
        vocabulary,
        popularity,
        base.preset,
        base.parent,
        base.metrics,
        base.training,
        base.calibration,
    )


def _new_vectors(rows: Tensor, shares: Tensor, known: Tensor) -> Tensor:
    """Unit vectors [M, d] of new items, from their neighbours [M, K] among the known [N + 1, d].

    An item without known neighbours gets zeros: only votes can recommend it.
    """
    rows = rows.long()
    inside = torch.where((rows > PADDING) & (rows < len(known)), rows, PADDING)
    weights = torch.where(inside > PADDING, shares, 0.0)
    vectors = functional.normalize(known.detach()[inside], dim=-1)
    return functional.normalize((weights.unsqueeze(-1) * vectors).sum(dim=1), dim=-1)
