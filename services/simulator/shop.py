"""The interface of a simulated shop. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


class Clicks(NamedTuple):
    """Clicks in order of time; all arrays have shape [N]."""

    interactions: IntArray
    """Index of the interaction that became the click."""
    users: IntArray
    """User numbers, 0 .. users-1."""
    items: npt.NDArray[Any]
    """Item ids: numbers in the source world, names in the missions world."""


class Shop(Protocol):
    """Products and shoppers with known click probabilities."""

    users: int
    item_ids: list[str]
    """Item ids as in messages; the first is row 1, as in a vocabulary."""

    def traffic(self, seed: int) -> Iterator[Clicks]:
        """Generate clicks without end, in chunks; the same seed gives the same clicks."""
        ...

    def next_click_given_history(self, histories: IntArray) -> FloatArray:
        """Compute the exact P(next click | history): the ceiling for any recommender.

        histories: shape [B, L], rows of `item_ids`, left-padded with 0. Returns shape
        [B, items]; column j is row j + 1. The next click is the shopper's next one on Kafka, after
        any pause.
        """
        ...
