"""At most once a minute: for warnings about what goes on and would fill the log."""

from __future__ import annotations

import time
from collections.abc import Callable

_SECONDS = 60.0


class RateLimit:
    """Allows something at once, and then once a minute; `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._allowed: float | None = None

    def allow(self) -> bool:
        """Whether it may be done now; counts as done if so."""
        now = self._clock()
        if self._allowed is not None and now - self._allowed < _SECONDS:
            return False
        self._allowed = now
        return True

    def reset(self) -> None:
        """Allow the next one at once."""
        self._allowed = None
