"""What constraints know about items in the HTTP service, and the constraints of a request. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

from nextclick.services.api.catalogue import Catalogue
from nextclick.shared.items import NOTHING_KNOWN, Attributes, ItemAttributes
from nextclick.shared.profiles import Profile


@dataclass(frozen=True)
class Rules:
    """An immutable snapshot of the catalogue, a file."""

    catalogue: Catalogue = field(default_factory=Catalogue)

    @cached_property
    def categories_of(self) -> Mapping[str, tuple[str, ...]]:
        """Item id → its categories."""
        found: defaultdict[str, list[str]] = defaultdict(list)
        for category, item_ids in self.catalogue.categories.items():
            for item_id in item_ids:
                found[item_id].append(category)
        return {item_id: tuple(sorted(names)) for item_id, names in found.items()}


class MergedAttributes:
    """Attributes from the items topic; the categories, if it names none, from the catalogue file.

    Used by one thread.
    """

    def __init__(self) -> None:
        self._rules = Rules()
        self._topic = NOTHING_KNOWN
        self._merged = NOTHING_KNOWN

    def merged(self, rules: Rules, topic: ItemAttributes) -> ItemAttributes:
        """The attributes; the same object as before if nothing has changed."""
        changed: Iterable[str] = ()
        if rules is not self._rules:
            changed = {
                *rules.categories_of,
                *self._rules.categories_of,
                *topic.changed_since(self._topic),
            }
        elif topic is not self._topic:
            changed = topic.changed_since(self._topic)
        of = rules.categories_of
        self._rules, self._topic = rules, topic
        self._merged = self._merged.changed({i: _filled(topic.get(i), of.get(i)) for i in changed})
        return self._merged


def attributes_of(item_id: str, rules: Rules, topic: ItemAttributes) -> Attributes:
    """The attributes of one item."""
    return _filled(topic.get(item_id), rules.categories_of.get(item_id))


def _filled(known: Attributes, categories: tuple[str, ...] | None) -> Attributes:
    if known.categories or not categories:
        return known
    return replace(known, categories=categories)


@lru_cache(1000)
def only_category(category: str) -> Profile:
    """The constraint that a request's `category` is."""
    return Profile(categories=[category])
