"""Items with attributes, and profiles over them, for the benches."""

from __future__ import annotations

from nextclick.bench.traffic import item_id
from nextclick.shared.profiles import Boosts, Exploration, Pin, Profile
from nextclick.shared.schemas import Item

_CATEGORIES = 200

PROFILES = [
    Profile(
        max_price=50.0,
        excluded_categories=["category 1"],
        boosts=Boosts(tags={"new": 1.5}),
        exploration=Exploration(slots=1, new_slots=1),
    ),
    Profile(max_per_category=2),
    Profile(tags=["new"], pins=[Pin(position=3, item_id=item_id(1))]),
]


def item(row: int) -> Item:
    """An item of a catalogue, with a category and a price; every tenth one is new."""
    return Item(
        item_id=item_id(row),
        categories=[f"category {row % _CATEGORIES}"],
        tags=["new"] * (row % 10 == 0),
        price=float(row % 100),
    )
