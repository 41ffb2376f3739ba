"""A hidden Markov model of clicks: its law, and what follows from a history. Pure.

A shopper's state is hidden; each click is drawn from the state's emission law, then the state
moves on. What a row of `transition` lacks to 1 is the probability that the session ends with
this click. The generator draws from these arrays and the filter infers from them, so they cannot
disagree about the law.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from nextclick.services.simulator.shop import FloatArray, IntArray

_BATCH = 1024
"""Histories filtered at once: bounds memory at any number."""


@dataclass(frozen=True)
class Chain:
    """The law, given the persona, of one session after another."""

    start: FloatArray
    """Shape [personas, states]: the law of a session's first state."""
    transition: FloatArray
    """Shape [states, states]: P(the session goes on and the next state is …)."""
    emission: FloatArray
    """Shape [personas, states, items]: P(the click is on …)."""

    @cached_property
    def end(self) -> FloatArray:
        """Shape [states]: P(the session ends with the click made in this state)."""
        left: FloatArray = 1.0 - self.transition.sum(axis=1)
        return left

    @cached_property
    def visits(self) -> FloatArray:
        """Shape [personas, states]: how often a session is in each state, on average.

        In shares this is the law of the state at any click, the stationary law of the chain
        in which one session follows another.
        """
        leaving = np.eye(len(self.end)) - self.transition
        return np.linalg.solve(leaving.T, self.start.T).T.astype(np.float64)

    def next_click(
        self, personas: FloatArray, histories: IntArray, rollover: float, full: int
    ) -> FloatArray:
        """Infer P(next click | history) by forward filtering (Rabiner, 1989).

        personas: shape [personas], the share of all sessions that each persona has.
        histories: shape [B, L], items counted from 1, left-padded with 0.
        rollover: P(the next click is still of this history | the session ends). At 1 histories
        run on over the end of a session; at 0 they are cut there, and the answer is conditioned
        on the session going on.
        full: a history of so many clicks may begin anywhere, a shorter one began with a session.
        Returns shape [B, items].
        """
        parts = [
            self._filter(personas, histories[start : start + _BATCH], rollover, full)
            for start in range(0, len(histories), _BATCH)
        ]
        return np.concatenate(parts or [np.zeros((0, self.emission.shape[2]))])

    def _filter(
        self, personas: FloatArray, histories: IntArray, rollover: float, full: int
    ) -> FloatArray:
        anywhere = (np.count_nonzero(histories, axis=1) >= full)[:, None, None]
        # Of the state at the next click, [B, personas, states]; up to a factor for each history.
        belief = personas[:, None] * np.where(anywhere, self.visits, self.start)
        for items in histories.T:
            rows = np.flatnonzero(items)
            explained = belief[rows] * self._likelihood[items[rows] - 1]
            flat = explained.reshape(-1, len(self.end))  # one large product, not B small ones
            goes_on = (flat @ self.transition).reshape(explained.shape)
            starts_over = (explained @ self.end)[:, :, None] * self.start
            moved = goes_on + rollover * starts_over
            belief[rows] = moved / moved.sum(axis=(1, 2), keepdims=True)
        by_item = self._likelihood.reshape(len(self._likelihood), -1)
        mixture = belief.reshape(len(belief), -1) @ by_item.T
        law: FloatArray = mixture / mixture.sum(axis=1, keepdims=True)
        return law

    @cached_property
    def _likelihood(self) -> FloatArray:
        """Shape [items, personas, states]: the emission law, seen from the click."""
        return np.ascontiguousarray(self.emission.transpose(2, 0, 1))


def sampler(law: FloatArray) -> Callable[[IntArray, npt.NDArray[np.float32]], IntArray]:
    """Make a function that draws from the rows of `law`, shape [rows, columns], by inversion.

    It takes rows and lots in [0, 1), both of shape [N], and returns the columns drawn. The lots
    are single precision: row + lot is then exact, and no lot can leave its row.
    """
    columns = law.shape[1]
    cumulative = np.cumsum(law, axis=1)
    cumulative /= cumulative[:, -1:]
    ladder = (cumulative + np.arange(len(law))[:, None]).ravel()

    def draw(rows: IntArray, lots: npt.NDArray[np.float32]) -> IntArray:
        found: IntArray = np.searchsorted(ladder, rows + lots, side="right") - rows * columns
        return found

    return draw
