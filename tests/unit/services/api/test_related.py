"""Profiles on lists of related items."""

from __future__ import annotations

import pytest

from nextclick.services.api.related import constrained
from nextclick.shared.items import UNKNOWN, Attributes
from nextclick.shared.profiles import Profile
from nextclick.shared.schemas import RelatedItem

KNOWN = {
    "a": Attributes(("red", "dogs"), ("new",), 10.0),
    "b": Attributes(("red",), (), 5.0),
    "c": Attributes(("blue",), ("new",), None),
    "d": Attributes(("blue", "red"), (), 1.0),
}
FOUND = [RelatedItem(i, s) for i, s in zip("abcde", (0.5, 0.4, 0.3, 0.2, 0.1), strict=True)]


@pytest.mark.parametrize(
    ("profiles", "expected"),
    [
        ([{}], "abcde"),
        ([{"categories": ["blue"]}], "cd"),
        ([{"excluded_categories": ["red"]}], "ce"),
        ([{"tags": ["new"]}], "ac"),
        ([{"excluded_tags": ["new"]}], "bde"),
        ([{"min_price": 5}], "ab"),
        ([{"max_price": 5}], "bd"),
        ([{"min_price": 2, "max_price": 7}, {"categories": ["red"]}], "b"),
        ([{"max_per_category": 1}], "ace"),
        ([{"max_per_category": 2}, {"max_per_category": 1}], "ace"),
        ([{"boosts": {"items": {"e": 4.5}}}], "aebcd"),
        ([{"boosts": {"categories": {"blue": 2}}}, {"boosts": {"tags": {"new": 2}}}], "cabde"),
        ([{"pins": [{"position": 1, "item_id": "e"}]}], "abcde"),
        ([{"categories": ["green"]}], ""),
    ],
    ids=str,
)
def test_what_profiles_allow_in_the_order_of_their_boosts(
    profiles: list[dict[str, object]], expected: str
) -> None:
    made = [Profile.model_validate(profile) for profile in profiles]
    listed = constrained(FOUND, made, lambda i: KNOWN.get(i, UNKNOWN), 5)
    assert [item.item_id for item in listed] == list(expected)
    assert all(item in FOUND for item in listed), "scores stay as they are"
    assert constrained(FOUND, made, lambda i: KNOWN.get(i, UNKNOWN), 2) == listed[:2]
