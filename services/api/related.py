"""Lists of related items: looked up in the served version, kept to what profiles allow. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Literal

from nextclick.services.api.problems import Rejected
from nextclick.services.api.recommender import NoModel
from nextclick.services.api.rules import Rules, attributes_of
from nextclick.shared.errors import Unavailable
from nextclick.shared.items import Attributes, ItemStates
from nextclick.shared.model.related import MAX_RELATED, ItemLists
from nextclick.shared.profiles import CategoryCounts, Profile
from nextclick.shared.registry import ServedModel
from nextclick.shared.schemas import RelatedBasis, RelatedItem
from nextclick.shared.windows import PADDING

RelatedKind = Literal["similar", "bought_together"]


@dataclass(frozen=True, slots=True)
class FoundItems:
    """What was looked up about one item."""

    items: list[RelatedItem]
    basis: RelatedBasis
    """Of bought_together."""
    model_version: str


def look_up(
    model: ServedModel | None,
    kind: RelatedKind,
    item_id: str,
    k: int,
    profiles: Sequence[Profile],
    states: ItemStates,
    rules: Rules,
) -> FoundItems:
    """The k items that are closest to one, of those that lists may hold and profiles allow.

    Raises Rejected for an item that the model does not know, Unavailable if there is no model, or
    if it has no related items.
    """
    if model is None:
        raise NoModel
    vocabulary = model.scorer.vocabulary
    (row,) = vocabulary.rows([item_id]).tolist()
    if row == PADDING:
        raise Rejected(
            HTTPStatus.NOT_FOUND, f"the model {model.name} does not know the item {item_id}"
        )
    if model.related is None:
        raise Unavailable(
            f"the model {model.version} has no related items: an earlier version of nextclick made "
            "it; the next retraining makes one that has them"
        )
    lists: ItemLists = getattr(model.related, kind)
    wanted = MAX_RELATED if profiles else k
    found = lists.of(row, vocabulary.item_ids, wanted, states.withheld)
    if profiles:
        found = constrained(
            found, profiles, lambda i: attributes_of(i, rules, states.attributes), k
        )
    return FoundItems(found, model.related.basis(row), model.version)


def constrained(
    found: Sequence[RelatedItem],
    profiles: Sequence[Profile],
    attributes_of: Callable[[str], Attributes],
    k: int,
) -> list[RelatedItem]:
    """The best k that all profiles allow, by score times boosts, with at most so many a category.

    found: best first. Pins are for other lists: an item that is pinned may be no related one.
    """
    known = {item.item_id: attributes_of(item.item_id) for item in found}

    def key(item: RelatedItem) -> float:
        boosts = (p.boosts.of(item.item_id, known[item.item_id]) for p in profiles)
        return -item.score * math.prod(boosts)

    allowed = [
        item
        for item in found
        if all(profile.excluded_by(known[item.item_id]) is None for profile in profiles)
    ]
    counts, taken = CategoryCounts(profiles), list[RelatedItem]()
    for item in sorted(allowed, key=key):
        if len(taken) == k:
            break
        if counts.take(known[item.item_id].categories):
            taken.append(item)
    return taken
