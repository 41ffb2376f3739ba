"""Event types and their weights: which events count as clicks, and how much. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

OTHER = "*"
"""In the weights: every type that is not named."""
PURCHASES = ("purchase", "buy", "order", "orders", "transaction", "order_completed")
"""The types by which an item is bought."""
DEFAULT_WEIGHTS: Mapping[str, float] = MappingProxyType(
    {
        **dict.fromkeys(
            ("click", "clicks", "view", "pv", "page_view", "product_view", "view_item"), 1.0
        ),
        **dict.fromkeys(("detail", "product_viewed", "product_clicked", "select_item"), 1.0),
        **dict.fromkeys(("cart", "carts", "add_to_cart", "addtocart", "product_added"), 2.0),
        **dict.fromkeys(("favourite", "favorite", "fav", "wishlist", "add_to_wishlist"), 2.0),
        **dict.fromkeys(PURCHASES, 3.0),
        **dict.fromkeys(
            ("impression", "impressions", "view_item_list", "product_list_viewed"), 0.0
        ),
        **dict.fromkeys(("remove_from_cart", "product_removed", "remove", "unfavourite"), 0.0),
        **dict.fromkeys(("unfavorite", "remove_from_wishlist", "refund"), 0.0),
        OTHER: 1.0,
    }
)
"""Event type → weight, for the names that shops, trackers and public data sets use."""


def normalised(event_type: str) -> str:
    """The form in which types are compared: `Add to Cart` and `add-to-cart` are `add_to_cart`."""
    return event_type.strip().casefold().replace(" ", "_").replace("-", "_")


def is_purchase(event_type: str) -> bool:
    """Whether an item is bought by an event of this type."""
    return normalised(event_type) in PURCHASES


def weights_of(changes: Mapping[str, float] | None = None) -> dict[str, float]:
    """Event type (normalised) → weight: the defaults, and what a shop changes about them."""
    changed = {normalised(name): weight for name, weight in (changes or {}).items()}
    return {**DEFAULT_WEIGHTS, **changed}


def label_weights_of(
    weights: Mapping[str, float], changes: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Event type (normalised) → weight as a target: `weights`, and what a shop changes about them.

    A type of weight 0 here and more in `weights` is part of histories, but never predicted.
    """
    return {**weights, **{normalised(name): weight for name, weight in (changes or {}).items()}}


def weight_of(event_type: str, weights: Mapping[str, float]) -> float:
    """The weight of an event type, from `weights_of` or `label_weights_of`."""
    return weights.get(normalised(event_type), weights[OTHER])
