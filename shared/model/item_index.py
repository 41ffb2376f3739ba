"""What is known about the items of one model, by column of its catalogue, and profiles over it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nextclick.shared.items import NOTHING_KNOWN, Attributes, ItemAttributes
from nextclick.shared.model.checkpoint import Vocabulary
from nextclick.shared.profiles import CONSTRAINTS, Profile
from nextclick.shared.windows import PADDING, IntArray

Columns = Mapping[str, IntArray]
"""Name → the columns of the items that have it, in no order."""

_NO_COLUMNS: IntArray = np.array([], np.int64)
_PREPARED_BYTES = 64_000_000
"""About the most memory for the prepared profiles of one model."""


@dataclass(frozen=True, eq=False)
class PreparedProfile:
    """A profile in terms of one model's catalogue and one snapshot of attributes."""

    profile: Profile
    excluded_by: npt.NDArray[np.uint8]
    """Shape [items]: 0 if lists may hold the item, else the place in CONSTRAINTS, from 1."""
    bias: Tensor
    """Float32 [items], on the scorer's device: the log of the item's boosts, −inf if excluded."""
    pins: tuple[tuple[int, int], ...]
    """Position from 1, and column, of the items that are pinned and that the model knows."""


@dataclass(frozen=True, eq=False)
class ItemIndex:
    """Attributes by column. Immutable, but for what was worked out already."""

    vocabulary: Vocabulary
    device: torch.device
    attributes: ItemAttributes
    prices: npt.NDArray[np.float64]
    """Shape [items]; NaN: not known."""
    categories: Columns
    tags: Columns
    _prepared: dict[str, PreparedProfile] = field(default_factory=dict)
    _categories_of: dict[int, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def empty(cls, vocabulary: Vocabulary, device: torch.device) -> ItemIndex:
        """Nothing is known yet. device: where the scores are."""
        prices = np.full(len(vocabulary), np.nan)
        return cls(vocabulary, device, NOTHING_KNOWN, prices, {}, {})

    def changed_to(self, attributes: ItemAttributes) -> ItemIndex:
        """The index of another snapshot; takes time by what has changed."""
        prices = self.prices.copy()
        changed = list(attributes.changed_since(self.attributes))
        rows = self.vocabulary.rows(changed)
        known = [(changed[i], int(rows[i]) - 1) for i in np.flatnonzero(rows != PADDING)]
        before = [self.attributes.get(item_id) for item_id, _ in known]
        after = [attributes.get(item_id) for item_id, _ in known]
        columns = [column for _, column in known]
        prices[columns] = [np.nan if new.price is None else new.price for new in after]

        def moved(kind: str, of: Columns) -> Columns:
            return _moved(of, columns, _names(before, kind), _names(after, kind))

        return ItemIndex(
            self.vocabulary,
            self.device,
            attributes,
            prices,
            moved("categories", self.categories),
            moved("tags", self.tags),
        )

    def categories_of(self, column: int) -> tuple[str, ...]:
        """The categories of one item."""
        names = self._categories_of.get(column)
        if names is None:
            names = self.attributes.get(self.vocabulary.item_ids[column]).categories
            self._categories_of[column] = names
        return names

    def prepare(self, profile: Profile) -> PreparedProfile:
        """Prepare a profile, or return what was prepared before."""
        found = self._prepared.get(profile.digest)
        if found is None:
            if len(self._prepared) * 5 * len(self.vocabulary) > _PREPARED_BYTES:
                self._prepared.clear()
            found = self._prepared[profile.digest] = self._prepare(profile)
        return found

    def _prepare(self, profile: Profile) -> PreparedProfile:
        excluded_by = np.zeros(len(self.vocabulary), np.uint8)

        def exclude(constraint: str, which: npt.NDArray[np.bool_]) -> None:
            excluded_by[which & (excluded_by == 0)] = CONSTRAINTS.index(constraint) + 1

        for constraint, kind, names, required in profile.memberships:
            exclude(constraint, self._any(getattr(self, kind), names) != required)
        if profile.prices is not None:
            low, high = profile.prices  # a comparison with NaN is false
            exclude("price", ~((self.prices >= low) & (self.prices <= high)))
        bias = self._log_boosts(profile)
        bias[excluded_by != 0] = -np.inf
        pins = sorted((pin.position, pin.item_id) for pin in profile.pins)
        rows = self.vocabulary.rows([item_id for _, item_id in pins]).tolist()
        return PreparedProfile(
            profile,
            excluded_by,
            torch.from_numpy(bias).to(self.device),
            tuple((at, row - 1) for (at, _), row in zip(pins, rows, strict=True) if row != PADDING),
        )

    def _any(self, columns: Columns, names: Iterable[str]) -> npt.NDArray[np.bool_]:
        """Bool [items]: which items have one of the names."""
        mask = np.zeros(len(self.vocabulary), bool)
        for name in names:
            mask[columns.get(name, _NO_COLUMNS)] = True
        return mask

    def _log_boosts(self, profile: Profile) -> npt.NDArray[np.float32]:
        boosts = profile.boosts
        total = np.zeros(len(self.vocabulary), np.float32)
        for columns, factors in ((self.categories, boosts.categories), (self.tags, boosts.tags)):
            for name, factor in factors.items():
                total[columns.get(name, _NO_COLUMNS)] += np.log(factor)
        rows = self.vocabulary.rows(list(boosts.items))
        for row, factor in zip(rows.tolist(), boosts.items.values(), strict=True):
            if row != PADDING:
                total[row - 1] += np.log(factor)
        return total


def _names(attributes: list[Attributes], kind: str) -> list[tuple[str, ...]]:
    return [getattr(one, kind) for one in attributes]


def _moved(
    of: Columns,
    columns: list[int],
    before: list[tuple[str, ...]],
    after: list[tuple[str, ...]],
) -> Columns:
    """`of` after the names of some columns have changed."""
    gone: defaultdict[str, list[int]] = defaultdict(list)
    come: defaultdict[str, list[int]] = defaultdict(list)
    for column, old, new in zip(columns, before, after, strict=True):
        if old != new:
            for name in {*old} - {*new}:
                gone[name].append(column)
            for name in {*new} - {*old}:
                come[name].append(column)
    if not gone and not come:
        return of
    moved = dict(of)
    for name in gone.keys() | come.keys():
        kept = moved.pop(name, _NO_COLUMNS)
        if name in gone:
            kept = kept[~np.isin(kept, gone[name])]
        if name in come:
            kept = np.concatenate([kept, np.array(come[name], np.int64)])
        if len(kept):
            moved[name] = kept
    return moved
