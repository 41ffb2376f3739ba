"""Profiles: constraints on a list as the settings name them and HTTP requests state them. Pure.

What an item lacks is not assumed: an item of which no category, tag or price is known fails what
asks for one, passes what forbids one, has no boost by it, and counts for no limit per category.
What a profile says about one item is said here; `shared/model/item_index.py` asks it of a whole
catalogue at once, and `shared/model/constraints.py` makes lists of that.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from hashlib import blake2b
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from nextclick.shared.items import Attributes
from nextclick.shared.schemas import MAX_NAMES, Identifier, Name, Whole

CONSTRAINTS = ("categories", "excluded_categories", "tags", "excluded_tags", "price")
"""Names of the constraints that exclude an item whatever else the list holds, in their order."""
MAX_POSITION = 100
"""The last position that an item can be pinned to: the length of the longest list."""

ProfileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
_Names = Annotated[list[Name], Field(min_length=1, max_length=MAX_NAMES)]
_Count = Annotated[int, Field(strict=True, ge=1, le=MAX_POSITION), Whole]
_Price = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
_Days = Annotated[float, Field(strict=True, gt=0, le=365, allow_inf_nan=False)]
_Factor = Annotated[float, Field(strict=True, gt=0, le=1e6, allow_inf_nan=False)]
_FactorByName = Annotated[dict[Name, _Factor], Field(max_length=MAX_NAMES)]
"""Name, or item id → factor."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Boosts(_Part):
    """Factors on the probability of items, for their order only; several on one item multiply."""

    categories: _FactorByName = {}
    tags: _FactorByName = {}
    items: _FactorByName = {}

    def of(self, item_id: str, attributes: Attributes) -> float:
        """The factor of one item."""
        product = self.items.get(item_id, 1.0)
        for names, factors in (
            (attributes.categories, self.categories),
            (attributes.tags, self.tags),
        ):
            for name in names:
                product *= factors.get(name, 1.0)
        return product


class Pin(_Part):
    """An item at a fixed position."""

    position: _Count
    """1 is the first."""
    item_id: Identifier


class Exploration(_Part):
    """How many places of a list are drawn, and from what (shared/model/exploration.py)."""

    slots: Annotated[int, Field(strict=True, ge=0, le=MAX_POSITION), Whole] = 1
    """Places for items that would follow the list."""
    candidates: Annotated[int, Field(strict=True, ge=1, le=10_000), Whole] = 100
    """So many of the best items that follow are drawn from."""
    new_slots: Annotated[int, Field(strict=True, ge=0, le=MAX_POSITION), Whole] = 0
    """Places for new items."""
    new_below: Annotated[int, Field(strict=True, ge=1, le=1_000_000), Whole] = 20
    """An item is new as long as fewer users clicked on it in what the model has learned."""
    temperature: Annotated[float, Field(strict=True, ge=0.1, le=100, allow_inf_nan=False)] = 1.0
    """Items are drawn in proportion to probability^(1 / temperature) …"""
    epsilon: Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)] = 0.1
    """… and in this share of the draws with equal probabilities."""

    @model_validator(mode="after")
    def _draws(self) -> Self:
        if not self.places:
            raise ValueError("slots and new_slots are both 0, so nothing is explored")
        if self.candidates < self.places:
            raise ValueError(f"{self.candidates} candidates are too few for {self.places} places")
        return self

    @property
    def places(self) -> int:
        """Places that are drawn, the last ones of a list."""
        return self.slots + self.new_slots


class Membership(NamedTuple):
    """A constraint on the categories or the tags of an item."""

    constraint: str
    """Its name in CONSTRAINTS."""
    kind: Literal["categories", "tags"]
    names: frozenset[str]
    required: bool
    """True: the item must have one of the names. False: it must have none."""


class Profile(_Part):
    """Constraints on a list. An empty profile constrains nothing."""

    categories: _Names | None = None
    """Only items that are in one of these categories."""
    excluded_categories: _Names | None = None
    """No item that is in one of these categories."""
    tags: _Names | None = None
    """Only items that have one of these tags."""
    excluded_tags: _Names | None = None
    """No item that has one of these tags."""
    min_price: _Price | None = None
    """Only items that cost at least so much."""
    max_price: _Price | None = None
    """Only items that cost at most so much."""
    max_per_category: _Count | None = None
    """At most so many items of each category, the best ones."""
    exclude_seen_days: _Days | None = None
    """No item that the user clicked in so many days."""
    exclude_bought_days: _Days | None = None
    """No item that the user bought in so many days."""
    boosts: Boosts = Boosts()
    """Factors on the probability of items, for their order only."""
    pins: Annotated[list[Pin], Field(max_length=MAX_POSITION)] = []
    """Items at fixed positions, unless a constraint or their state keeps them out."""
    exploration: Exploration | None = None
    """Places whose items are drawn; None: none."""

    @field_validator("pins")
    @classmethod
    def _pins_are_unique(cls, pins: list[Pin]) -> list[Pin]:
        if twice := _repeated([pin.position for pin in pins]):
            raise ValueError(f"position {twice[0]} has several pins")
        if again := _repeated([pin.item_id for pin in pins]):
            raise ValueError(f"item {again[0]!r} is pinned to several positions")
        return pins

    @model_validator(mode="after")
    def _can_be_satisfied(self) -> Self:
        low, high = self.min_price, self.max_price
        if low is not None and high is not None and low > high:
            raise ValueError(f"min_price {low:g} is above max_price {high:g}")
        for kind in ("categories", "tags"):
            asked, excluded = getattr(self, kind) or (), getattr(self, f"excluded_{kind}") or ()
            if both := sorted({*asked} & {*excluded}):
                raise ValueError(f"{both[0]!r} is in {kind} and in excluded_{kind}")
        return self

    @property
    def excludes_past(self) -> bool:
        """Whether it keeps out what the user clicked or bought in the last days."""
        return self.exclude_seen_days is not None or self.exclude_bought_days is not None

    @property
    def is_extended(self) -> bool:
        """Whether its lists need a message with more than `profile` and `shortened_by`."""
        return self.exploration is not None or self.excludes_past

    @property
    def content(self) -> str:
        """Its JSON, as ASCII, without defaults and spaces, with sorted keys."""
        stated = self.model_dump(exclude_defaults=True)
        return json.dumps(stated, sort_keys=True, separators=(",", ":"))

    @cached_property
    def digest(self) -> str:
        """Twelve hexadecimal digits that stand for the content: its BLAKE2b."""
        return blake2b(self.content.encode(), digest_size=6).hexdigest()

    @cached_property
    def memberships(self) -> tuple[Membership, ...]:
        """What it asks of categories and tags, in the order of CONSTRAINTS."""
        stated: list[Membership] = []
        kinds: tuple[Literal["categories", "tags"], ...] = ("categories", "tags")
        for kind in kinds:
            for constraint, required in ((kind, True), (f"excluded_{kind}", False)):
                if (names := getattr(self, constraint)) is not None:
                    stated.append(Membership(constraint, kind, frozenset(names), required))
        return tuple(stated)

    @cached_property
    def prices(self) -> tuple[float, float] | None:
        """The lowest and the highest price; None: any, also one that is not known."""
        if self.min_price is None and self.max_price is None:
            return None
        return self.min_price or 0.0, math.inf if self.max_price is None else self.max_price

    def excluded_by(self, attributes: Attributes) -> str | None:
        """The first of CONSTRAINTS that keeps an item out of lists; None if none does."""
        for constraint, kind, names, required in self.memberships:
            if names.isdisjoint(getattr(attributes, kind)) == required:
                return constraint
        if self.prices is not None:
            (low, high), price = self.prices, attributes.price
            if price is None or not low <= price <= high:
                return "price"
        return None

    def check_length(self, k: int) -> None:
        """Raise ValueError if a list of k items has no room for pins or drawn places."""
        last = max((pin.position for pin in self.pins), default=0)
        if last > k:
            raise ValueError(f"an item is pinned to position {last} of a list of {k}")
        drawn = 0 if self.exploration is None else self.exploration.places
        if drawn and last > k - drawn:
            raise ValueError(
                f"an item is pinned to position {last}, and the last {drawn} of {k} are drawn"
            )
        if drawn >= k:
            raise ValueError(f"{drawn} places are drawn of a list of {k}; one at least is not")


class CategoryCounts:
    """Counts the items of one list by category, for a limit per category."""

    def __init__(self, profiles: Iterable[Profile]) -> None:
        """Every limit of the profiles holds."""
        limits = [p.max_per_category for p in profiles if p.max_per_category is not None]
        self.limit = min(limits, default=None)
        self._counts: dict[str, int] = {}

    def take(self, categories: Collection[str]) -> bool:
        """Count an item, unless one of its categories is full; returns whether it was counted."""
        if self.limit is None:
            return True
        counts = self._counts
        for name in categories:
            if counts.get(name, 0) >= self.limit:
                return False
        for name in categories:
            counts[name] = counts.get(name, 0) + 1
        return True

    @property
    def full(self) -> list[str]:
        """The categories that take no further item."""
        return [name for name, n in self._counts.items() if n == self.limit]


def profile_id(name: str, profile: Profile) -> str:
    """How messages name a profile: by its name and its content."""
    return f"{name}@{profile.digest}"


def unknown_profile(name: str, known: Collection[str]) -> str:
    """The line for a name that no profile has."""
    names = ", ".join(sorted(known)) or "there are none"
    return f"there is no profile {name!r}; NEXTCLICK_PROFILES has: {names}"


def _repeated(values: Sequence[object]) -> list[object]:
    return [value for value, count in Counter(values).items() if count > 1]
