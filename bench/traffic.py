"""Random clicks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from nextclick.services.simulator.shop import Clicks

CHUNK = 10_000


def item_id(row: int) -> str:
    """The item id of a catalogue row."""
    return f"item-{row}"


def traffic(items: int, users: int, seed: int) -> Iterator[Clicks]:
    """Uniformly random clicks without end, in chunks of CHUNK clicks."""
    rng = np.random.default_rng(seed)
    names = np.array([item_id(row) for row in range(1, items + 1)], object)
    while True:
        chosen = names[rng.integers(0, items, CHUNK)]
        yield Clicks(np.arange(CHUNK), rng.integers(0, users, CHUNK), chosen)
