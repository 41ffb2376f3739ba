"""Limits repeated warnings, which would fill the log, to one per minute."""

from __future__ import annotations

import time
from collections.abc import Callable

_SECONDS = 60.0


class RateLimit:
    """Allows one event per minute; the first passes at once. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._allowed: float | None = None

    def allow(self) -> bool:
        """Whether an event may pass now; if so, the minute starts."""
        now = self._clock()
        if self._allowed is not None and now - self._allowed < _SECONDS:
            return False
        self._allowed = now
        return True

    def reset(self) -> None:
        """Let the next event pass at once."""
        self._allowed = None
