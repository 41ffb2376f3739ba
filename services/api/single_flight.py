"""Runs a function once for all who want its result at the same time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """A function that blocks, run in a thread, at most once at a time.

    So many requests for the same result take one thread, not all that the event loop has. Used by
    one event loop.
    """

    def __init__(
        self,
        function: Callable[[], T],
        *,
        fresh_seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """A result is given again for `fresh_seconds`, counted from the start of its run."""
        self._function = function
        self._fresh_seconds = fresh_seconds
        self._clock = clock
        self._began = 0.0
        self._run: asyncio.Future[T] | None = None

    async def result(self) -> T:
        """The result of the run in progress, of a fresh one, or of a new one. Raises its error."""
        run = self._run
        if run is None or (run.done() and not self._is_fresh(run)):
            self._began = self._clock()
            run = self._run = asyncio.ensure_future(asyncio.to_thread(self._function))
        return await asyncio.shield(run)  # the others go on if one leaves

    def _is_fresh(self, run: asyncio.Future[T]) -> bool:
        failed = run.cancelled() or run.exception() is not None
        return not failed and self._clock() - self._began < self._fresh_seconds
