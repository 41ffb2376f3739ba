"""A list under profiles, by a plain program that reads the whole ranking from the top."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from nextclick.shared.items import ItemAttributes
from nextclick.shared.profiles import Profile


@dataclass(frozen=True)
class Asked:
    """What a list was asked for, and what there is."""

    profiles: Sequence[Profile]
    attributes: ItemAttributes
    withheld: frozenset[str]
    k: int
    seen: frozenset[str] = frozenset()
    """What the list must not hold as it was seen."""

    def allowed(self, item_id: str) -> bool:
        of = self.attributes.get(item_id)
        if item_id in self.withheld or item_id in self.seen:
            return False
        for profile in self.profiles:
            low, high = profile.min_price, profile.max_price
            if (
                (profile.categories is not None and not {*of.categories} & {*profile.categories})
                or {*of.categories} & {*(profile.excluded_categories or ())}
                or (profile.tags is not None and not {*of.tags} & {*profile.tags})
                or {*of.tags} & {*(profile.excluded_tags or ())}
                or (low is not None and (of.price is None or of.price < low))
                or (high is not None and (of.price is None or of.price > high))
            ):
                return False
        return True

    def factor(self, item_id: str) -> float:
        of, product = self.attributes.get(item_id), 1.0
        for boosts in (profile.boosts for profile in self.profiles):
            for name in of.categories:
                product *= boosts.categories.get(name, 1.0)
            for name in of.tags:
                product *= boosts.tags.get(name, 1.0)
            product *= boosts.items.get(item_id, 1.0)
        return product

    def expected(self, log_p: dict[str, float]) -> list[str]:
        """The list. log_p: the items that the model knows, in the order in which ties go."""
        limits = [p.max_per_category for p in self.profiles if p.max_per_category is not None]
        counts: Counter[str] = Counter()
        pinned: dict[int, str] = {}

        def fits(item_id: str) -> bool:
            return all(counts[c] < min(limits) for c in self.attributes.get(item_id).categories)

        def take(item_id: str) -> bool:
            if not self.allowed(item_id) or (limits and not fits(item_id)):
                return False
            counts.update(self.attributes.get(item_id).categories)
            return True

        wanted: dict[int, str] = {}
        for profile in self.profiles:
            for pin in profile.pins:
                free = pin.position not in wanted and pin.item_id not in wanted.values()
                if free and pin.position <= self.k and pin.item_id in log_p:
                    wanted[pin.position] = pin.item_id
        for position, item_id in sorted(wanted.items()):
            if take(item_id):
                pinned[position] = item_id
        rest = []
        for item_id in sorted(log_p, key=lambda i: -(log_p[i] + math.log(self.factor(i)))):
            free = len(rest) + len(pinned) < self.k and item_id not in pinned.values()
            if free and take(item_id):
                rest.append(item_id)
        listed: list[str] = []
        while rest or pinned:
            place = len(listed) + 1
            if place not in pinned and not rest:
                place = min(pinned)  # the list is too short for it
            listed.append(pinned.pop(place) if place in pinned else rest.pop(0))
        return listed
