"""Constraints on lists: what no list may hold, and the length and the profiles of one list.

They are applied where the best are chosen, so that a list is short only if nothing else is allowed:

1. The items of the profiles' pins take their positions, unless a constraint keeps them out.
2. The other places go to the best of the items that are allowed, by probability times boosts.
3. With a limit per category these are taken one after the other, in descending order. An item of a
   category that has its number already is passed over.

4. If a profile explores, that is the list without its last places, which are drawn from what these
   rules leave (exploration.py).

Scores are not changed: they remain probabilities over the whole catalogue.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nextclick.shared.model.checkpoint import Vocabulary
from nextclick.shared.model.exploration import NewItems, draw
from nextclick.shared.model.item_index import ItemIndex, PreparedProfile
from nextclick.shared.model.rounding import six_digits
from nextclick.shared.model.top_k import top_k
from nextclick.shared.profiles import CONSTRAINTS, CategoryCounts, Exploration
from nextclick.shared.schemas import KeptOutItems
from nextclick.shared.windows import PADDING, IntArray

_PER_PLACE = 3
"""With a limit per category: candidates for each place of a list, before more are looked for."""


@dataclass(frozen=True, slots=True)
class Withheld:
    """The items that no list may hold, in terms of one model's catalogue."""

    item_ids: frozenset[str]
    """As they were given; the model may not know all of them."""
    mask: Tensor
    """Bool [items], on the scorer's device: True for items that are withheld."""
    any: bool
    """Whether one is."""

    @classmethod
    def nothing(cls, items: int, device: torch.device) -> Withheld:
        """Nothing is withheld from a catalogue of so many items."""
        return cls(frozenset(), torch.zeros(items, dtype=torch.bool, device=device), any=False)

    def changed_to(self, item_ids: frozenset[str], vocabulary: Vocabulary) -> Withheld:
        """The same for other item ids; takes time by what has changed."""
        mask = self.mask.clone()
        for changed, withheld in (
            (self.item_ids - item_ids, False),
            (item_ids - self.item_ids, True),
        ):
            rows = torch.from_numpy(vocabulary.rows(list(changed)))
            mask[(rows[rows != PADDING] - 1).to(mask.device)] = withheld
        return Withheld(item_ids, mask, any=bool(mask.any()))

    def apply(self, scores: Tensor) -> Tensor:
        """Set the scores [B, items] of withheld items to −inf, in place; returns `scores`."""
        return scores.masked_fill_(self.mask, -torch.inf) if self.any else scores


@dataclass(frozen=True, eq=False, slots=True)
class KeptOut:
    """What a user's own clicks keep out of a list, in terms of one model's catalogue."""

    items: KeptOutItems
    """Those that the model knows."""
    seen: IntArray
    """Their columns."""
    bought: IntArray

    @classmethod
    def of(cls, items: KeptOutItems, vocabulary: Vocabulary) -> KeptOut:
        """Look the items up."""
        (seen, seen_columns), (bought, bought_columns) = (
            _known(ids, vocabulary) for ids in (items.seen, items.bought)
        )
        return cls(KeptOutItems(seen=seen, bought=bought), seen_columns, bought_columns)

    @property
    def columns(self) -> IntArray:
        """All of them."""
        return np.concatenate([self.seen, self.bought])


def _known(item_ids: list[str], vocabulary: Vocabulary) -> tuple[list[str], IntArray]:
    rows = vocabulary.rows(item_ids)
    known = [item_id for item_id, row in zip(item_ids, rows.tolist(), strict=True) if row]
    return known, rows[rows != PADDING] - 1


@dataclass(frozen=True)
class Constraints:
    """The constraints on one list, in terms of one model's catalogue; lists may share them."""

    k: int
    """The longest list; it is shorter if the constraints leave fewer items."""
    without_history: bool = False
    """Leave out the items of the history."""
    profiles: tuple[PreparedProfile, ...] = ()
    """All of them hold: boosts multiply, and pins of an earlier one come first."""
    index: ItemIndex | None = None
    """That of the profiles; needed for a limit per category."""
    kept_out: KeptOut | None = None
    """What the user's own clicks keep out."""

    @cached_property
    def bias(self) -> Tensor | None:
        """Float32 [items]: what is added to log P for the order; None without profiles."""
        biases = [prepared.bias for prepared in self.profiles]
        return sum(biases[1:], start=biases[0]) if biases else None

    @cached_property
    def boosts(self) -> bool:
        """Whether the profiles change the order of items."""
        return self.bias is not None and bool((self.bias.isfinite() & (self.bias != 0)).any())

    @cached_property
    def max_per_category(self) -> int | None:
        """The smallest limit of the profiles; None without one."""
        return self.category_counts().limit

    def category_counts(self) -> CategoryCounts:
        """For a new list."""
        return CategoryCounts(prepared.profile for prepared in self.profiles)

    @cached_property
    def exploration(self) -> Exploration | None:
        """That of the first profile that explores; None: nothing is drawn."""
        all_of_them = (p.profile.exploration for p in self.profiles)
        return next((one for one in all_of_them if one is not None), None)

    @cached_property
    def drawn_places(self) -> int:
        """How many of the last places are drawn; the first never is."""
        return 0 if self.exploration is None else min(self.exploration.places, self.k - 1)

    @cached_property
    def head(self) -> Constraints:
        """The constraints on the list without its drawn places."""
        return replace(self, k=self.k - self.drawn_places) if self.drawn_places else self

    @cached_property
    def pins(self) -> list[tuple[int, int]]:
        """Position and column, by position."""
        taken: dict[int, int] = {}
        for prepared in self.profiles:
            for position, column in prepared.pins:
                if position <= self.k and column not in taken.values():
                    taken.setdefault(position, column)
        return sorted(taken.items())

    def full_categories(self, columns: Sequence[int]) -> list[int]:
        """What the limit per category keeps out of drawn places, given the columns before them.

        Draws do not know of each other, so a category must have room for all of them.
        """
        limit, index = self.max_per_category, self.index
        if limit is None or index is None:
            return []
        counts = Counter(name for column in columns for name in index.categories_of(column))
        room = limit - self.drawn_places
        full = [of for name, of in index.categories.items() if counts[name] > room]
        closed: list[int] = np.concatenate(full).tolist() if full else []
        return closed


def constrained_top_k(
    scores: Tensor, batch: IntArray, constraints: Sequence[Constraints]
) -> tuple[Tensor, Tensor]:
    """Scores and columns of the list for each row, best first, both [B, k].

    Behind the end of a list the score is −inf.

    scores: [B, items], −inf for withheld items; batch: their windows [B, HISTORY_LENGTH];
    constraints: one per window.
    """
    return _best(_keys(scores, batch, constraints), scores, constraints)


def _best(
    keys: Tensor, scores: Tensor, constraints: Sequence[Constraints]
) -> tuple[Tensor, Tensor]:
    """As `constrained_top_k`. keys: [B, items], by what the items are ordered."""
    limited = [c.max_per_category is not None for c in constraints]
    wanted = [c.k * (_PER_PLACE if x else 1) for c, x in zip(constraints, limited, strict=True)]
    values, columns = top_k(keys, min(keys.shape[1], max(wanted)))
    if not any(limited) and not any(c.pins for c in constraints):
        lengths = torch.tensor([c.k for c in constraints])
        behind = torch.arange(columns.shape[1]) >= lengths[:, None]
        behind = behind.to(values.device) | (values == -torch.inf)
        return scores.gather(1, columns).masked_fill_(behind, -torch.inf), columns
    # Not NaN: whoever asks must see that a model is broken.
    allowed = (values != -torch.inf).sum(dim=1).tolist()
    free = {id(c): _free_pins(keys, c) for c in constraints if c.pins}
    lists = []
    for row, (best, n, c) in enumerate(zip(columns.tolist(), allowed, constraints, strict=True)):
        if not limited[row] and not c.pins:
            lists.append(best[: min(n, c.k)])
            continue

        def others(closed: list[int], row: int = row, most: int = len(best)) -> list[int]:
            """The best items that are not among the closed ones."""
            key = keys[row].clone()
            key[closed] = -torch.inf
            values, columns = top_k(key[None], most)
            return columns[0, : int((values != -torch.inf).sum())].tolist()

        pins = (
            [pin for pin, may in zip(c.pins, free[id(c)][row], strict=True) if may]
            if c.pins
            else []
        )
        lists.append(_arranged(c, pins, best[:n], others))
    return _gathered(scores, lists)


def explored_top_k(
    scores: Tensor,
    batch: IntArray,
    constraints: Sequence[Constraints],
    seeds: Sequence[int],
    new: NewItems,
) -> tuple[tuple[Tensor, Tensor], list[list[float] | None]]:
    """As `constrained_top_k`, with drawn places; and each list's propensities (None: none drawn).

    seeds: one per window. new: the new items.
    """
    keys = _keys(scores, batch, constraints)
    values, columns = _best(keys, scores, [c.head for c in constraints])
    lengths = (values != -torch.inf).sum(dim=1).tolist()
    lists = [best[:n] for best, n in zip(columns.tolist(), lengths, strict=True)]
    propensities = draw_places(keys, lists, constraints, seeds, new)
    return _gathered(scores, lists), propensities


def draw_places(
    keys: Tensor,
    lists: Sequence[list[int]],
    constraints: Sequence[Constraints],
    seeds: Sequence[int],
    new: NewItems,
) -> list[list[float] | None]:
    """Append the drawn places to lists of columns; returns each list's propensities.

    keys: [B, items], by what the items are ordered; they are not kept. See `explored_top_k`.
    """
    propensities: list[list[float] | None] = [None] * len(lists)
    rows_of: dict[Exploration, list[int]] = {}
    for row, constraint in enumerate(constraints):
        if constraint.exploration is not None and constraint.drawn_places:
            rows_of.setdefault(constraint.exploration, []).append(row)
            if closed := constraint.full_categories(lists[row]):
                keys[row, closed] = -torch.inf
    for exploration, rows in rows_of.items():
        drawn = draw(
            keys if len(rows) == len(keys) else keys[rows],
            [lists[row] for row in rows],
            exploration,
            [constraints[row].drawn_places for row in rows],
            [seeds[row] for row in rows],
            new.columns(exploration),
        )
        for row, of_row in zip(rows, drawn, strict=True):
            propensities[row] = [1.0] * len(lists[row]) + [six_digits(p) for _, p in of_row]
            lists[row].extend(column for column, _ in of_row)
    return propensities


def _gathered(scores: Tensor, lists: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Scores and columns of lists of columns, both [B, k]; see `constrained_top_k`."""
    lengths = [len(columns) for columns in lists]
    k = max(lengths)
    padded = np.array([[*c, *[0] * (k - len(c))] for c in lists], np.int64).reshape(len(lists), k)
    columns = torch.from_numpy(padded).to(scores.device)
    best = scores.gather(1, columns)
    if min(lengths) < k:
        behind = np.arange(k) >= np.array(lengths)[:, None]
        best.masked_fill_(torch.from_numpy(behind).to(scores.device), -torch.inf)
    return best, columns


def _free_pins(keys: Tensor, constraint: Constraints) -> list[list[bool]]:
    """For each row and each of the constraint's pins, whether the row's list may hold it."""
    columns = [column for _, column in constraint.pins]
    free: list[list[bool]] = (keys[:, columns] != -torch.inf).tolist()
    return free


def _keys(scores: Tensor, batch: IntArray, constraints: Sequence[Constraints]) -> Tensor:
    """By what the items are ordered: −inf for those that a list must not hold; [B, items]."""
    first = constraints[0].profiles
    together = all(c.profiles == first for c in constraints)
    bias = constraints[0].bias if together else None
    keys = scores.clone() if bias is None else scores + bias
    for row, (window, constraint) in enumerate(zip(batch, constraints, strict=True)):
        if not together and (bias := constraint.bias) is not None:
            keys[row] += bias
        if constraint.without_history:
            keys[row, torch.from_numpy(window[window != PADDING] - 1).to(keys.device)] = -torch.inf
        if constraint.kept_out is not None:
            out = torch.from_numpy(constraint.kept_out.columns).to(keys.device)
            keys[row, out] = -torch.inf
    return keys


def _arranged(
    constraint: Constraints,
    pins: Sequence[tuple[int, int]],
    best: list[int],
    others: Callable[[list[int]], list[int]],
) -> list[int]:
    """A list with pins and a limit per category.

    pins: those that are allowed, by position. best: allowed columns, best first. others(closed):
    the next ones, if all columns of `closed` are left out. Each time it is asked, one item at least
    goes into the list, or none is left; so it is asked k times at most.
    """
    counts, index = constraint.category_counts(), constraint.index
    limited = counts.limit is not None
    taken: set[int] = set()

    def take(column: int) -> bool:
        if column in taken:
            return False
        if limited and index is not None and not counts.take(index.categories_of(column)):
            return False
        taken.add(column)
        return True

    pinned = {position: column for position, column in pins if take(column)}
    rest: list[int] = []
    places = constraint.k - len(pinned)
    while True:
        for column in best:
            if len(rest) == places:
                break
            if take(column):
                rest.append(column)
        if len(rest) == places or not limited or index is None:
            break
        full = [index.categories[name] for name in counts.full]
        best = others([*taken, *(np.concatenate(full).tolist() if full else ())])
        if not best:
            break
    for position, column in sorted(pinned.items()):
        # A list that is too short for the position ends with the item.
        rest.insert(position - 1, column)
    return rest


def popularity_keys(
    log_popularity: npt.NDArray[np.float64], constraint: Constraints, withheld: Withheld
) -> npt.NDArray[np.float64]:
    """By what popular items are ordered: −inf for those that a list must not hold; [items].

    log_popularity: log P of the items, [items].
    """
    keys = log_popularity.copy()
    if (bias := constraint.bias) is not None:
        keys += bias.cpu().numpy()
    keys[withheld.mask.cpu().numpy()] = -np.inf
    if constraint.kept_out is not None:
        keys[constraint.kept_out.columns] = -np.inf
    return keys


def most_popular(
    keys: npt.NDArray[np.float64], by_popularity: IntArray, constraint: Constraints
) -> list[int]:
    """The columns of the list of popular items, best first.

    keys: as `popularity_keys` makes them. by_popularity: all columns, the most popular first.
    """
    never = keys == -np.inf
    order = np.argsort(-keys, kind="stable") if constraint.boosts else by_popularity
    order = order[~never[order]]

    def others(closed: list[int]) -> list[int]:
        left: list[int] = order[~np.isin(order, closed)][: _PER_PLACE * constraint.k].tolist()
        return left

    pins = [(at, column) for at, column in constraint.pins if not never[column]]
    return _arranged(constraint, pins, order[: _PER_PLACE * constraint.k].tolist(), others)


def left_out(
    constraint: Constraints, withheld: Withheld, history: IntArray, listed: int
) -> dict[str, int]:
    """Why a list is shorter than wanted: constraint → how many items it left out.

    An item counts for the first constraint that leaves it out. So these numbers and the length of
    the list add up to the catalogue. history: columns that the list must not hold. listed: the
    length of the list.
    """
    free = ~withheld.mask.cpu().numpy()
    counts = {"withheld": int((~free).sum()), "exclude_seen": int(free[np.unique(history)].sum())}
    free[history] = False
    for prepared in constraint.profiles:
        numbers = np.bincount(prepared.excluded_by[free], minlength=len(CONSTRAINTS) + 1)
        for name, number in zip(CONSTRAINTS, numbers[1:].tolist(), strict=True):
            counts[name] = counts.get(name, 0) + number
        free &= prepared.excluded_by == 0
    if (kept_out := constraint.kept_out) is not None:
        for name, columns in (
            ("exclude_seen_days", kept_out.seen),
            ("exclude_bought_days", kept_out.bought),
        ):
            counts[name] = int(free[columns].sum())
            free[columns] = False
    if constraint.max_per_category is not None:
        counts["max_per_category"] = int(free.sum()) - listed
    return {name: number for name, number in counts.items() if number}
