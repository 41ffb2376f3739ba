"""A simulated shop whose shoppers react to the lists that they are shown.

In the missions world a click does not depend on what was recommended, so all models can be judged
by its log. Here it does: what is not shown is found by a few shoppers only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from nextclick.shared.windows import IntArray

FloatArray = npt.NDArray[np.float64]
Reaction: TypeAlias = Literal["intent", "choice"]
"""intent: a shopper wants one item, and clicks it if it is shown. choice: a shopper looks at all
that is shown, and what stands in a list takes clicks from what stands beside it."""
_OUTSIDE = 0.15
"""P(the next click is in another group)."""
_ATTRACTION = 4.0
"""With `choice`: how much better than nothing a whole catalogue in one list would be."""
SECONDS_PER_CLICK = 10
_NEVER = 1e-12


@dataclass(frozen=True)
class Shop:
    """The shop, and what shoppers would click next; determined by `seed`."""

    items: int = 300
    reaction: Reaction = "intent"
    search: float = 0.3
    """P(a shopper finds an item that is wanted and not shown); the others leave."""
    group_size: int = 10
    """Items that are clicked one after the other belong to groups of so many."""
    seed: int = 0
    ids: list[str] = field(init=False)
    wanted: FloatArray = field(init=False)
    """Shape [items, items]: P(wanted next | last click)."""
    popularity: FloatArray = field(init=False)
    """Shape [items]: P(first click of a session)."""

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        popularity = _shares(1 / (1 + rng.permutation(self.items)) ** 0.7)
        group = np.arange(self.items) // self.group_size
        within = (group[:, None] == group) & ~np.eye(self.items, dtype=bool)
        weights = np.where(within, rng.exponential(size=within.shape) ** 2, 0.0)
        wanted = (1 - _OUTSIDE) * _shares(weights) + _OUTSIDE * popularity
        object.__setattr__(self, "ids", [str(1 + i) for i in range(self.items)])
        object.__setattr__(self, "popularity", popularity)
        object.__setattr__(self, "wanted", wanted)

    def without(self, rows: IntArray) -> Shop:
        """The shop before it sold some items: nobody wants them."""
        shop = Shop(self.items, self.reaction, self.search, self.group_size, self.seed)
        for name in ("popularity", "wanted"):
            shares = getattr(shop, name).copy()
            shares[..., rows] = _NEVER
            object.__setattr__(shop, name, _shares(shares))
        return shop

    def clicks(self, last: IntArray, lists: Sequence[IntArray], seed: int) -> IntArray:
        """The next click of shoppers, −1 for one who leaves. Shape [N].

        last: rows of their last clicks, [N]; lists: rows of what each is shown.
        """
        rng = np.random.default_rng(seed)
        found = rng.random(len(last)) < self.search
        # By the inverse of the cumulated shares, which are the same for all shoppers after an item.
        intent = _draw(self.wanted, last, rng)
        clicked = np.where(found, intent, -1)
        chosen = rng.random(len(last))
        for row, shown in enumerate(lists):
            if self.reaction == "intent":
                if intent[row] in shown:
                    clicked[row] = intent[row]
            else:
                shares = self._chosen(int(last[row]), shown).cumsum()
                place = int(np.searchsorted(shares, chosen[row], side="right"))
                if place < len(shown):
                    clicked[row] = shown[place]
        return clicked

    def _chosen(self, last: int, shown: IntArray) -> FloatArray:
        """P(an item of a list is chosen from it); multinomial logit with an outside option."""
        attraction = _ATTRACTION * self.wanted[last, shown]
        shares: FloatArray = attraction / (1 + attraction.sum())
        return shares

    def worth(self, last: int, shown: IntArray) -> float:
        """The exact P(the next click is on an item of a list)."""
        wanted = float(self.wanted[last, shown].sum())
        if self.reaction == "intent":
            return wanted
        chosen = float(self._chosen(last, shown).sum())
        return chosen + (1 - chosen) * self.search * wanted

    def first_clicks(self, count: int, rng: np.random.Generator) -> IntArray:
        """The rows of the first clicks of sessions."""
        rows: IntArray = rng.choice(self.items, count, p=self.popularity)
        return rows

    def organic_clicks(self, sessions: int, length: int, seed: int) -> pd.DataFrame:
        """Clicks of shoppers who find all that they want, without any list.

        Columns user_id, item_id, timestamp; each user is one session of `length` clicks.
        """
        rng = np.random.default_rng(seed)
        rows = np.empty((sessions, length), np.int64)
        rows[:, 0] = self.first_clicks(sessions, rng)
        for step in range(1, length):
            rows[:, step] = _draw(self.wanted, rows[:, step - 1], rng)
        return click_frame(rows, self.ids, f"organic {seed}")


def click_frame(rows: IntArray, ids: Sequence[str], prefix: str, first_ms: int = 0) -> pd.DataFrame:
    """Sessions of clicks [N, L], −1 after their end, as clicks in order of arrival.

    The users are named by the prefix and a number.
    """
    session, step = np.nonzero(rows >= 0)
    order = np.lexsort((session, step))
    session, step = session[order], step[order]
    times = first_ms + step * (SECONDS_PER_CLICK * 1000) + session
    return pd.DataFrame(
        {
            "user_id": [f"{prefix} {s}" for s in session],
            "item_id": [ids[row] for row in rows[session, step]],
            "timestamp": times,
        }
    ).sort_values("timestamp", kind="stable", ignore_index=True)


def _shares(weights: FloatArray) -> FloatArray:
    shares: FloatArray = weights / weights.sum(axis=-1, keepdims=True)
    return shares


def _draw(shares: FloatArray, rows: IntArray, rng: np.random.Generator) -> IntArray:
    """Draw a column by each row of some rows of shares."""
    cumulated = shares.cumsum(axis=1)
    numbers = rng.random(len(rows))
    drawn = np.array(
        [np.searchsorted(cumulated[row], u) for row, u in zip(rows, numbers, strict=True)]
    )
    rows_drawn: IntArray = np.minimum(drawn, shares.shape[1] - 1)
    return rows_drawn
