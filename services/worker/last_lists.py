"""The last list of each user, to be judged by the user's next click. Pure.

A list is a hit if the clicked item is among its first HIT_RATE_K. The lists of the users who
clicked last are kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from nextclick.shared.model import Ranking
from nextclick.shared.schemas import Click

USERS = 10_000
"""Users whose last list is kept: about 5 MB."""
HIT_RATE_K = 10
"""Items of a list that count: HR@10 for lists of any length."""

By = TypeVar("By")
"""What made a list."""


class LastLists(Generic[By]):
    """The last lists, and what made each of them."""

    def __init__(self, judged: Callable[[str], bool], users: int = USERS) -> None:
        """judged(event_type): whether a click of the type judges. users: lists kept."""
        self._judged = judged
        self._users = users
        self._lists: OrderedDict[str, tuple[By, tuple[str, ...]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._lists)

    def judge(self, click: Click) -> tuple[By, bool] | None:
        """Forget the last list of the click's user, which the click judges.

        Returns what made it, and whether it was a hit; None if the click judges no list.
        """
        last = self._lists.pop(click.user_id, None)
        if last is None or not self._judged(click.event_type):
            return None
        return last[0], click.item_id in last[1]

    def keep(self, user_id: str, by: By, ranking: Ranking) -> None:
        """Keep the list that a user got."""
        self._lists[user_id] = (by, tuple([item.item_id for item in ranking.items[:HIT_RATE_K]]))

    def shrink(self) -> None:
        """Forget the lists of the users who have not clicked for longest, if there are too many."""
        while len(self._lists) > self._users:
            self._lists.popitem(last=False)

    def forget(self, user_ids: Sequence[str]) -> None:
        """Forget the lists of users."""
        for user_id in user_ids:
            self._lists.pop(user_id, None)
