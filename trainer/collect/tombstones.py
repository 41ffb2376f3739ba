"""Tombstones: which users were forgotten, and when. Pure.

They are properties of the event log's table, so they are as durable as the log, and a commit that
adds one conflicts with every append, import or compaction that began before it: these look again,
and find it. There is no user id in them, but its hash with a random key.

    nextclick.forget.key         the key, hex
    nextclick.forget.count       how many users were forgotten whom models may have been trained on
    nextclick.forget.models      models that were trained at a lower count are to be removed
    nextclick.forgotten.<hash>   <moment, epoch ms>/<count at that moment>
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from nextclick.shared.windows import IntArray

_KEY = "nextclick.forget.key"
_COUNT = "nextclick.forget.count"
_MODELS = "nextclick.forget.models"
_USER = "nextclick.forgotten."
NEVER = -(2**63)
"""Before all times."""
BoolArray = npt.NDArray[np.bool_]


class Tombstone(NamedTuple):
    """One forgotten user."""

    moment: int
    """Epoch ms. Clicks of the user that happened or arrived until then are not learned."""
    forget_count: int
    """Models that were trained at a lower count may know the user; 0: none does."""


@dataclass(frozen=True)
class Tombstones:
    """All forgotten users of an event log."""

    key: str = ""
    count: int = 0
    models: int = 0
    users: Mapping[str, Tombstone] = field(default_factory=dict)
    """By `hash_of` their ids."""

    @classmethod
    def of(cls, properties: Mapping[str, str | None]) -> Tombstones:
        """Read the properties of a table."""
        users = {}
        for name, value in properties.items():
            if name.startswith(_USER):
                moment, _, count = str(value).partition("/")
                users[name.removeprefix(_USER)] = Tombstone(int(moment), int(count))
        return cls(
            properties.get(_KEY) or "",
            int(properties.get(_COUNT) or 0),
            int(properties.get(_MODELS) or 0),
            users,
        )

    @cached_property
    def newest(self) -> int:
        """The moment of the last forgetting, epoch ms; before 1970 if there was none."""
        return max((user.moment for user in self.users.values()), default=NEVER)

    def hash_of(self, user_id: str) -> str:
        """SHA-256 of key and id, which the table's own SQL can compute as well (`condition`)."""
        return hashlib.sha256(f"{self.key}{user_id}".encode()).hexdigest()

    def get(self, user_id: str) -> Tombstone | None:
        """The tombstone of a user."""
        return self.users.get(self.hash_of(user_id))

    def forbid(self, user_id: str, first: int) -> bool:
        """Whether a click must not be learned. first: when it happened or arrived, epoch ms."""
        if first > self.newest:
            return False
        tombstone = self.get(user_id)
        return tombstone is not None and first <= tombstone.moment

    def forbidden(self, user_ids: pd.Series, first: IntArray) -> BoolArray:
        """The same for many clicks: shape [N]."""
        numbers, names = pd.factorize(user_ids)
        found = [self.get(name) for name in names]
        until = np.array([NEVER if one is None else one.moment for one in found], np.int64)
        result: BoolArray = first <= until[numbers]
        return result

    def condition(self, user_id: str) -> str:
        """SQL that is true for the rows of a user, without the id: the table's log keeps it."""
        return f"encode(sha256(concat('{self.key}', user_id)), 'hex') = '{self.hash_of(user_id)}'"

    def adding(self, user_id: str, moment: int, new_key: str) -> dict[str, str]:
        """The properties that forget a user now. new_key: used if there is no key yet."""
        keyed = self if self.key else Tombstones(new_key)
        count = self.users.get(keyed.hash_of(user_id), Tombstone(0, 0)).forget_count
        return {_KEY: keyed.key, _USER + keyed.hash_of(user_id): f"{moment}/{count}"}

    def counting(self, user_id: str) -> dict[str, str]:
        """The properties that say of a forgotten user that models may know them."""
        tombstone = self.users[self.hash_of(user_id)]
        count = self.count + 1
        name = _USER + self.hash_of(user_id)
        return {_COUNT: str(count), name: f"{tombstone.moment}/{count}"}

    def removing_models(self) -> dict[str, str]:
        """The properties that have all models removed that know a forgotten user."""
        return {_MODELS: str(self.count)}
