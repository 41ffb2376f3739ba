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

from collections.abc import Sequence
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
class Stratum:
    """What one place may hold."""

    columns: IntArray
    """Shape [N], N ≥ 1."""
    probabilities: FloatArray
    """Shape [N]: of their being drawn."""

    def draw(self, number: float) -> tuple[int, float]:
        """The column that a uniform number draws, and its probability."""
        place = int(np.searchsorted(self.probabilities.cumsum(), number, side="right"))
        # The sum may end just below 1; and NaN, of a broken model, must not raise here.
        place = min(place, len(self.columns) - 1)
        return int(self.columns[place]), float(self.probabilities[place])


def strata(
    keys: Tensor,
    heads: Sequence[Sequence[int]],
    exploration: Exploration,
    places: Sequence[int],
    new: IntArray,
) -> list[list[Stratum]]:
    """The strata of each list, one for each place that is drawn; those of `new_slots` last.

    A list has fewer than its number of places only if too few items are left for it.

    keys: float [B, items], the log of what items are ordered by, −inf for those that a list must
    not hold. Items of its head get −inf here. heads: for each list the columns that are in it.
    new: ascending columns of the items with fewer than `new_below` users.
    """
    lengths = [len(head) for head in heads]
    rows = torch.arange(len(heads)).repeat_interleave(torch.tensor(lengths))
    columns = torch.tensor([column for head in heads for column in head], dtype=torch.int64)
    keys[rows.to(keys.device), columns.to(keys.device)] = -torch.inf
    of_new = np.empty((len(heads), 0))
    if exploration.new_slots:
        at = torch.from_numpy(new).to(keys.device)
        of_new = keys[:, at].cpu().numpy().astype(np.float64)
        keys[:, at] = -torch.inf
    if exploration.candidates < keys.shape[1]:
        best, ranked = top_k(keys, exploration.candidates)
    else:  # all items, which need not be sorted
        best, ranked = keys, torch.arange(keys.shape[1]).expand_as(keys)
    of_best, best_columns = best.cpu().numpy().astype(np.float64), ranked.cpu().numpy()
    lists = []
    for row, wanted in enumerate(places):
        fresh, others = of_new[row] != -np.inf, of_best[row] != -np.inf
        count = min(exploration.new_slots, wanted, int(fresh.sum()))
        others_count = min(wanted - count, int(others.sum()))
        count = min(wanted - others_count, int(fresh.sum()))
        made = _dealt(best_columns[row, others], of_best[row, others], others_count, exploration)
        if count:
            made += _dealt(new[fresh], of_new[row, fresh], count, exploration)
        lists.append(made)
    return lists


def _dealt(
    columns: IntArray, keys: FloatArray, count: int, exploration: Exploration
) -> list[Stratum]:
    """Deal columns out to `count` strata, each of which then has one at least."""
    made = []
    for first in range(count):
        logits = keys[first::count] / exploration.temperature
        weights = np.exp(logits - logits.max())
        weights *= (1 - exploration.epsilon) / weights.sum()
        weights += exploration.epsilon / len(weights)
        made.append(Stratum(columns[first::count], weights))
    return made
