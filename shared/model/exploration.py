"""Exploration: the last places of a list go to items that are drawn, with known probabilities.

Of a list's k places, d are drawn (`profiles.Exploration`). The other k − d hold the best items, as
ever. Each drawn place has its own *stratum*: candidates that no other place may draw. So the
propensity of a drawn item, the probability with which the list holds it given the history, is
exactly the probability of its draw, and draws of several places are independent.

Strata of `slots`: the `candidates` best items that follow, dealt out by rank in turn (by column if
they are the whole catalogue). Strata of `new_slots`: the items with fewer than `new_below` users,
dealt out by column in turn. Where too few items of one kind are left, the place is one of the other
kind. Within a stratum an item is drawn in proportion to key^(1 / temperature), where the key is its
probability times its boosts, or, in a share `epsilon` of the draws, with equal probability: so no
propensity is so small that one click would count for thousands (a defensive mixture; Hesterberg,
"Weighted Average Importance Sampling and Defensive Mixture Distributions", 1995). Whatever keeps an
item out of a list keeps it out of the strata.

Draws follow from a seed alone. So a click that is answered again after a crash gets the same list,
and whoever has a message can compute it again. If rounding differs between two machines, a draw
differs with about the probability of the difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nextclick.shared.model.top_k import top_k
from nextclick.shared.profiles import Exploration
from nextclick.shared.windows import IntArray

FloatArray = npt.NDArray[np.float64]
_KEPT = 8
"""Of a catalogue's lists of new items."""


def seed_of(user_id: str, event: str) -> int:
    """The seed of a user's list: the 64-bit BLAKE2b of `user_id:event`.

    event: what the list answers, such as the event id of a click.
    """
    return int.from_bytes(blake2b(f"{user_id}:{event}".encode(), digest_size=8).digest())


def seed_text(seed: int) -> str:
    """A seed as messages have it: sixteen hexadecimal digits."""
    return f"{seed:016x}"


def uniform(seed: int, place: int) -> float:
    """The uniform number, in [0, 1), of the drawn place: the BLAKE2b of `seed:place` / 2^64.

    place: 0 is the first drawn place of the list.
    """
    digest = blake2b(f"{seed_text(seed)}:{place}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) / 2**53


@dataclass(frozen=True)
class Strata:
    """What one drawn place of several lists may hold."""

    columns: IntArray
    """Shape [lists, N]."""
    keys: npt.NDArray[np.floating]
    """Shape [lists, N]: the log of what items are drawn by; −inf behind the end of a list's own."""
    sizes: IntArray
    """Shape [lists]: how many are a list's own."""

    @classmethod
    def sorted(cls, columns: IntArray, keys: npt.NDArray[np.floating]) -> Strata:
        """Of keys in descending order, both [lists, N]; −inf: the list must not hold it."""
        return cls(columns, keys, (keys != -np.inf).sum(axis=1))

    @classmethod
    def by_column(cls, columns: IntArray, keys: npt.NDArray[np.floating]) -> Strata:
        """Of keys [lists, N] for columns [N] in this order; −inf: the list must not hold it."""
        free = keys != -np.inf
        sizes = free.sum(axis=1)
        made = cls(
            np.zeros((len(keys), sizes.max(initial=0)), np.int64),
            np.full((len(keys), sizes.max(initial=0)), -np.inf, keys.dtype),
            sizes,
        )
        for row in np.flatnonzero(sizes).tolist():
            at = np.flatnonzero(free[row])
            made.columns[row, : len(at)] = columns[at]
            made.keys[row, : len(at)] = keys[row, at]
        return made

    def of(self, lists: list[int]) -> Strata:
        """Those of some of the lists, in ascending order."""
        if len(lists) == len(self.sizes):
            return self
        return Strata(self.columns[lists], self.keys[lists], self.sizes[lists])

    def dealt(self, count: int) -> Iterator[Strata]:
        """Deal each list's items out to `count` places, in turn."""
        for first in range(count):
            part = np.s_[:, first::count]
            yield Strata(self.columns[part], self.keys[part], (self.sizes - first - 1) // count + 1)

    def draw(
        self, exploration: Exploration, numbers: FloatArray
    ) -> tuple[IntArray, npt.NDArray[np.floating]]:
        """The column that each list's uniform number draws, and its probability, both [lists].

        Every list must have an item.
        """
        logits = self.keys - self.keys.max(axis=1, keepdims=True)
        if exploration.temperature != 1:
            logits /= exploration.temperature
        weights = np.exp(logits)
        weights *= (1 - exploration.epsilon) / weights.sum(axis=1, keepdims=True)
        if exploration.epsilon:
            own = self.keys != -np.inf
            weights += own * (exploration.epsilon / self.sizes[:, None]).astype(weights.dtype)
        sums = weights.cumsum(axis=1, dtype=np.float64)
        below = sums <= numbers[:, None] * sums[:, -1:]  # the last may be just below 1, or above
        # For numbers that round to 1; and NaN, of a broken model, must not raise here.
        places = np.minimum(below.sum(axis=1), self.sizes - 1)
        lists = np.arange(len(places))
        return self.columns[lists, places], weights[lists, places]


class NewItems:
    """Which items of a catalogue are new: fewer users clicked on them than a profile says."""

    def __init__(self, users: IntArray) -> None:
        """users: [items], who clicked on each item in what the model has learned."""
        self._users = users
        self._below: dict[int, IntArray] = {}

    def columns(self, exploration: Exploration) -> IntArray:
        """Their columns, ascending; none where no place is for them."""
        if not exploration.new_slots:
            return self._users[:0]
        found = self._below.get(exploration.new_below)
        if found is None:
            if len(self._below) >= _KEPT:  # requests over HTTP may ask for any number
                self._below.clear()
            found = np.flatnonzero(self._users < exploration.new_below)
            self._below[exploration.new_below] = found
        return found


def draw(
    keys: Tensor,
    heads: Sequence[Sequence[int]],
    exploration: Exploration,
    places: Sequence[int],
    seeds: Sequence[int],
    new: IntArray,
) -> list[list[tuple[int, float]]]:
    """Column and propensity of what is drawn for each list; the `new_slots` are the last.

    A list has fewer than its number of places only if too few items are left for it.

    keys: float [B, items], the log of what items are ordered by, −inf for those that a list must
    not hold. Items of its head, and new ones, get −inf here. heads: for each list the columns that
    are in it. seeds: one per list. new: columns of new items.
    """
    others, fresh = _pools(keys, heads, exploration, new)
    wanted = np.array(places)
    for_new = np.minimum(np.minimum(exploration.new_slots, wanted), fresh.sizes)
    for_others = np.minimum(wanted - for_new, others.sizes)
    for_new = np.minimum(wanted - for_others, fresh.sizes)
    drawn: list[list[tuple[int, float]]] = [[] for _ in heads]
    for pool, counts in ((others, for_others.tolist()), (fresh, for_new.tolist())):
        for count in {*counts} - {0}:
            lists = [row for row, its_count in enumerate(counts) if its_count == count]
            for strata in pool.of(lists).dealt(count):
                numbers = np.array([uniform(seeds[row], len(drawn[row])) for row in lists])
                columns, probabilities = strata.draw(exploration, numbers)
                found = zip(columns.tolist(), probabilities.tolist(), strict=True)
                for row, one in zip(lists, found, strict=True):
                    drawn[row].append(one)
    return drawn


def _pools(
    keys: Tensor, heads: Sequence[Sequence[int]], exploration: Exploration, new: IntArray
) -> tuple[Strata, Strata]:
    """The items that may follow, and the new ones, of each list; see `draw`."""
    longest = max(map(len, heads))
    # Filled up with the first column; a list has none only if none is allowed.
    listed = [[*head, *[head[0] if head else 0] * (longest - len(head))] for head in heads]
    columns = torch.tensor(listed, dtype=torch.int64, device=keys.device)
    keys.scatter_(1, columns, -torch.inf)
    at = torch.from_numpy(new).to(keys.device)
    fresh = Strata.by_column(new, keys[:, at].cpu().numpy())
    keys.index_fill_(1, at, -torch.inf)
    if exploration.candidates < keys.shape[1]:
        best, ranked = top_k(keys, exploration.candidates)
        return Strata.sorted(ranked.cpu().numpy(), best.cpu().numpy()), fresh
    return Strata.by_column(np.arange(keys.shape[1]), keys.cpu().numpy()), fresh
