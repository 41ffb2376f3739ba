"""Clicks of nobody in particular."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from nextclick.services.simulator.shop import Clicks

CHUNK = 10_000


def item_id(row: int) -> str:
    """Name the item in a catalogue row."""
    return f"item-{row}"


def traffic(items: int, users: int, seed: int) -> Iterator[Clicks]:
    """Anybody clicks anything, for ever; each chunk has CHUNK clicks."""
    rng = np.random.default_rng(seed)
    names = np.array([item_id(row) for row in range(1, items + 1)], object)
    while True:
        chosen = names[rng.integers(0, items, CHUNK)]
        yield Clicks(np.arange(CHUNK), rng.integers(0, users, CHUNK), chosen)
