"""Lists of related items: looked up in the served version, kept to what profiles allow. Pure."""

from __future__ import annotations

from collections import Counter
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
from nextclick.shared.profiles import Profile
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
    allowed = [
        item for item in found if all(_allows(profile, known[item.item_id]) for profile in profiles)
    ]
    allowed.sort(key=lambda i: -i.score * _boost(profiles, i.item_id, known[i.item_id]))
    limits = [p.max_per_category for p in profiles if p.max_per_category is not None]
    taken: list[RelatedItem] = []
    in_category: Counter[str] = Counter()
    for item in allowed:
        categories = known[item.item_id].categories
        if len(taken) < k and all(in_category[c] < limit for c in categories for limit in limits):
            in_category.update(categories)
            taken.append(item)
    return taken


def _allows(profile: Profile, of: Attributes) -> bool:
    for names, asked, excluded in (
        (of.categories, profile.categories, profile.excluded_categories),
        (of.tags, profile.tags, profile.excluded_tags),
    ):
        if asked is not None and not {*names} & {*asked}:
            return False
        if {*names} & {*(excluded or ())}:
            return False
    low, high = profile.min_price, profile.max_price
    if low is None and high is None:
        return True
    return (
        of.price is not None
        and (low is None or of.price >= low)
        and (high is None or of.price <= high)
    )


def _boost(profiles: Sequence[Profile], item_id: str, of: Attributes) -> float:
    product = 1.0
    for boosts in (profile.boosts for profile in profiles):
        for names, factors in (
            (of.categories, boosts.categories),
            (of.tags, boosts.tags),
            ((item_id,), boosts.items),
        ):
            for name in names:
                product *= factors.get(name, 1.0)
    return product
