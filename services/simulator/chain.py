"""A hidden Markov model of clicks, with exact inference of the next click. Pure.

A shopper's state is hidden. Each click is drawn from the emission distribution of the state, then
the state changes. One minus the sum of a row of `transition` is the probability that the session
ends after this click. Generator and inference use the same arrays, so they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from nextclick.services.simulator.shop import FloatArray, IntArray

_BATCH = 1024
"""Histories filtered at once; bounds the memory."""


@dataclass(frozen=True)
class Chain:
    """The parameters of the model; a shopper makes one session after another."""

    start: FloatArray
    """Shape [personas, states]: P(first state of a session | persona)."""
    transition: FloatArray
    """Shape [states, states]: P(the session continues, with this next state | state)."""
    emission: FloatArray
    """Shape [personas, states, items]: P(clicked item | persona, state)."""

    @cached_property
    def end(self) -> FloatArray:
        """Shape [states]: P(the session ends after the click | state)."""
        left: FloatArray = 1.0 - self.transition.sum(axis=1)
        return left

    @cached_property
    def visits(self) -> FloatArray:
        """Shape [personas, states]: expected number of visits of each state per session.

        Normalised, this is the stationary distribution of the state at any click of the chain in
        which one session follows another.
        """
        leaving = np.eye(len(self.end)) - self.transition
        return np.linalg.solve(leaving.T, self.start.T).T.astype(np.float64)

    def next_click(
        self, personas: FloatArray, histories: IntArray, rollover: float, full: int
    ) -> FloatArray:
        """Infer P(next click | history) by forward filtering (Rabiner, 1989).

        personas: shape [personas], each persona's share of all sessions.
        histories: shape [B, L], items counted from 1, left-padded with 0.
        rollover: P(the history continues with the next session | the session ends). With 1,
        histories span sessions; with 0, they end with the session, and the result is conditioned on
        its continuation.
        full: a history of this many clicks may begin within a session; a shorter one begins with
        it. Returns shape [B, items].
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
        # Belief in persona and state at the next click, [B, personas, states], unnormalised.
        belief = personas[:, None] * np.where(anywhere, self.visits, self.start)
        for items in histories.T:
            rows = np.flatnonzero(items)
            weighted = belief[rows] * self._likelihood[items[rows] - 1]
            flat = weighted.reshape(-1, len(self.end))  # one large product, not B small ones
            goes_on = (flat @ self.transition).reshape(weighted.shape)
            starts_over = (weighted @ self.end)[:, :, None] * self.start
            moved = goes_on + rollover * starts_over
            belief[rows] = moved / moved.sum(axis=(1, 2), keepdims=True)
        by_item = self._likelihood.reshape(len(self._likelihood), -1)
        mixture = belief.reshape(len(belief), -1) @ by_item.T
        result: FloatArray = mixture / mixture.sum(axis=1, keepdims=True)
        return result

    @cached_property
    def _likelihood(self) -> FloatArray:
        """Shape [items, personas, states]: `emission`, transposed."""
        return np.ascontiguousarray(self.emission.transpose(2, 0, 1))


def sampler(distributions: FloatArray) -> Callable[[IntArray, npt.NDArray[np.float32]], IntArray]:
    """Make a function that samples columns from distributions, by inversion of the CDF.

    distributions: shape [rows, columns], one per row, not necessarily normalised. The function
    takes rows and uniform random numbers in [0, 1), both of shape [N], and returns columns [N]. The
    numbers must be float32, so that row + number is exact in float64 and stays below row + 1.
    """
    columns = distributions.shape[1]
    cumulative = np.cumsum(distributions, axis=1)
    cumulative /= cumulative[:, -1:]
    cumulative_rows = (cumulative + np.arange(len(distributions))[:, None]).ravel()

    def draw(rows: IntArray, uniforms: npt.NDArray[np.float32]) -> IntArray:
        found: IntArray = (
            np.searchsorted(cumulative_rows, rows + uniforms, side="right") - rows * columns
        )
        return found

    return draw
