"""Related items of a model version: for each item the similar ones, and those bought together.

They are computed once, when the version is made (trainer/fit/related.py), so serving is a look-up.
They lie in a file of their own beside the weights, which only those read who serve them: workers
have no use for it. A version from before has no such file.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError

from nextclick.shared.errors import CheckpointError
from nextclick.shared.schemas import RelatedBasis, RelatedItem
from nextclick.shared.windows import IntArray

LISTED = 20
"""Length of a list where nobody asks for another."""
MAX_RELATED = 30
"""Most items in a list; more than are shown, because some may be withheld when it is served."""


@dataclass(frozen=True, eq=False)
class ItemLists:
    """One list of items for each item of a catalogue, best first, in flat arrays.

    The list of row r is [bounds[r - 1]:bounds[r]]: MAX_RELATED entries at most.
    """

    bounds: IntArray
    """Shape [items + 1]."""
    rows: npt.NDArray[np.int32]
    """Shape [N]: catalogue rows, from 1."""
    scores: npt.NDArray[np.float32]
    """Shape [N]: not increasing within a list."""

    def of(
        self, row: int, item_ids: Sequence[str], k: int, withheld: Collection[str] = ()
    ) -> list[RelatedItem]:
        """The first k items of a row's list that are not withheld.

        item_ids: those of the catalogue. A row behind the last one has an empty list: a delta may
        have added items.
        """
        if row >= len(self.bounds):
            return []
        part = slice(self.bounds[row - 1], self.bounds[row])
        listed: list[RelatedItem] = []
        for other, score in zip(self.rows[part].tolist(), self.scores[part].tolist(), strict=True):
            if len(listed) == k:
                break
            if (item_id := item_ids[other - 1]) not in withheld:
                listed.append(RelatedItem(item_id, round(score, 6)))
        return listed

    def holders(self, rows: IntArray) -> IntArray:
        """The rows whose lists hold one of these rows."""
        places = np.flatnonzero(np.isin(self.rows, rows))
        return np.unique(np.searchsorted(self.bounds, places, side="right"))


@dataclass(frozen=True, eq=False)
class RelatedLists:
    """The lists of one model version."""

    similar: ItemLists
    bought_together: ItemLists
    by_purchases: npt.NDArray[np.bool_]
    """Shape [items]: whether the item's list of bought_together comes from purchases."""

    def holders(self, rows: IntArray) -> IntArray:
        """The rows whose lists hold one of these rows, ascending."""
        return np.union1d(self.similar.holders(rows), self.bought_together.holders(rows))

    def basis(self, row: int) -> RelatedBasis:
        """What a row's list of items bought together comes from."""
        is_known = row <= len(self.by_purchases)
        return "purchases" if is_known and self.by_purchases[row - 1] else "clicks"


def to_bytes(related: RelatedLists) -> bytes:
    """Serialise as safetensors."""
    tensors: dict[str, npt.NDArray[np.generic]] = {"by_purchases": related.by_purchases}
    for kind in ("similar", "bought_together"):
        lists: ItemLists = getattr(related, kind)
        for name in ("bounds", "rows", "scores"):
            tensors[f"{kind}.{name}"] = getattr(lists, name)
    return safetensors.numpy.save(tensors)


def from_bytes(content: bytes, items: int) -> RelatedLists:
    """Read and check the lists of a catalogue of so many items.

    Raises CheckpointError for anything but lists of other items of that catalogue, best first.
    """
    try:
        tensors = safetensors.numpy.load(content)
        related = RelatedLists(
            _lists(tensors, "similar", items),
            _lists(tensors, "bought_together", items),
            tensors["by_purchases"],
        )
    except (SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"the related items cannot be read: {str(error)[:200]}") from None
    if related.by_purchases.shape != (items,) or related.by_purchases.dtype != np.bool_:
        raise CheckpointError("the related items are not those of this catalogue")
    return related


def _lists(tensors: dict[str, npt.NDArray[np.generic]], kind: str, items: int) -> ItemLists:
    """Raises KeyError and ValueError."""
    bounds, rows, scores = (tensors[f"{kind}.{name}"] for name in ("bounds", "rows", "scores"))
    if [x.dtype.name for x in (bounds, rows, scores)] != ["int64", "int32", "float32"]:
        raise ValueError(f"{kind}: other types of numbers")
    if bounds.shape != (items + 1,) or rows.ndim != 1 or scores.shape != rows.shape:
        raise ValueError(f"{kind}: other shapes")
    lists = ItemLists(bounds, rows, scores)  # type: ignore[arg-type]
    lengths = np.diff(lists.bounds)
    if lists.bounds[0] != 0 or lists.bounds[-1] != len(rows) or (lengths < 0).any():
        raise ValueError(f"{kind}: the lists do not lie one after the other")
    owners = np.repeat(np.arange(1, items + 1), lengths)
    falling = (np.diff(lists.scores) <= 0) | (np.diff(owners) > 0)
    if (
        (lengths > MAX_RELATED).any()
        or ((lists.rows < 1) | (lists.rows > items) | (lists.rows == owners)).any()
        or not np.isfinite(lists.scores).all()
        or not falling.all()
    ):
        raise ValueError(f"{kind}: a list that is none")
    return lists
