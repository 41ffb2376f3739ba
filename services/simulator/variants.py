"""The variants world: the missions world with brands and sizes, attributes, and new items. Pure.

Each product of the missions world is sold in VARIANTS: of twelve brands, in two sizes. What a
shopper clicks next follows from the mission, as there; of which brand and size, from the shopper's
taste. An item's title, category, tag and price say both, and its id says nothing. A part of the
items is new: nobody can click them before their launch, late in the log.
"""

from __future__ import annotations

import numpy as np

from nextclick.services.simulator.missions import MissionWorld
from nextclick.services.simulator.shop import Clicks, FloatArray, IntArray
from nextclick.services.simulator.world import CATEGORIES
from nextclick.shared.item_features import ItemContent

BRANDS = {
    # Name: how expensive, as a factor on the price.
    **dict.fromkeys(("Barkley", "Nuzzle", "Fidelio", "Whiskerby"), 0.6),
    **dict.fromkeys(("Pawline", "Tailwind", "Moorland", "Velvetpaw"), 1.0),
    **dict.fromkeys(("Aurelian", "Kestrel", "Hollowoak", "Silvermere"), 1.8),
}
SIZES = {"small": 0.7, "large": 1.5}
VARIANTS = tuple((brand, size) for brand in BRANDS for size in SIZES)
LINES = {0.6: "budget", 1.0: "standard", 1.8: "premium"}
"""Factor of a brand → tag of its items."""

FAVOURITES = 2
"""Brands that a shopper prefers."""
PREFERENCE, SIZE_PREFERENCE = 10.0, 3.0
"""How many times likelier a shopper clicks a favourite brand, and the size that suits."""
NEW = 0.3
"""Share of the items that are new."""
LAUNCH = (0.7, 0.97)
"""Between these shares of the log new items are launched, one after the other."""


class VariantsWorld:
    """The shop, its shoppers and its items; all determined by `seed`."""

    def __init__(self, seed: int = 42, users: int = 1000) -> None:
        """Draw items, launches and tastes. `users` must be at least 20."""
        rng = np.random.default_rng(seed)
        self.missions = MissionWorld(seed, users)
        products, brands, sizes = self.missions.item_ids, list(BRANDS), list(SIZES)
        shape = (len(products), len(VARIANTS))
        ids = rng.permutation(len(products) * len(VARIANTS)) + 1000
        self.item_ids = [str(number) for number in ids]
        """One id per product and variant, product by product."""
        self._appeal: FloatArray = rng.lognormal(0.0, 0.7, shape)
        self.launch: FloatArray = np.where(
            rng.random(shape) < NEW, rng.uniform(*LAUNCH, shape), 0.0
        )
        """Shape [products, variants]: the share of the log before the first possible click."""
        self._brand: IntArray = np.array([brands.index(brand) for brand, _ in VARIANTS])
        self._size: IntArray = np.array([sizes.index(size) for _, size in VARIANTS])
        likes = np.ones((users, len(brands)))
        favourites = rng.random(likes.shape).argsort(axis=1)[:, :FAVOURITES]
        np.put_along_axis(likes, favourites, PREFERENCE, axis=1)
        suits = np.ones((users, len(sizes)))
        suits[np.arange(users), rng.integers(0, len(sizes), users)] = SIZE_PREFERENCE
        self._taste: FloatArray = likes[:, self._brand] * suits[:, self._size]
        prices = rng.uniform(3, 60, len(products))
        self.contents = {
            self.item_ids[p * len(VARIANTS) + v]: ItemContent(
                categories=(CATEGORIES[self.missions.category[p]],),
                tags=(LINES[BRANDS[brand]],),
                price=round(float(prices[p] * BRANDS[brand] * SIZES[size]), 2),
                title=f"{brand} {product} {size}",
            )
            for p, product in enumerate(products)
            for v, (brand, size) in enumerate(VARIANTS)
        }
        """Item id → what the shop says about it."""

    def items_csv(self) -> str:
        """What the shop says about its items, as `nextclick items load` reads it."""
        lines = ["item_id,title,categories,tags,price"]
        for item_id, content in self.contents.items():
            names = ("|".join(content.categories), "|".join(content.tags))
            lines.append(",".join([item_id, content.title, *names, str(content.price)]))
        return "\n".join(lines) + "\n"

    def clicks(self, count: int, seed: int) -> Clicks:
        """A log of `count` clicks with all launches; the same seed gives the same clicks."""
        of_products = self.missions.clicks(count, seed)
        row = {name: p for p, name in enumerate(self.missions.item_ids)}
        product = np.array([row[name] for name in of_products.items], np.int64)
        now = np.arange(count) / count
        weight = self._appeal[product] * self._taste[of_products.users]
        weight *= self.launch[product] <= now[:, None]
        total = weight.cumsum(axis=1)
        uniform = np.random.default_rng(seed).random(count) * total[:, -1]
        variant = (total <= uniform[:, None]).sum(axis=1)
        ids = np.array(self.item_ids, object)[product * len(VARIANTS) + variant]
        return Clicks(of_products.interactions, of_products.users, ids)
