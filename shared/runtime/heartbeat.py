"""Is the loop of this process getting anywhere? It says so itself, by a beat after every step."""

from __future__ import annotations

import time
from collections.abc import Callable

from nextclick.shared.errors import NextclickError

STEP_SECONDS = 60.0
"""A loop that has not ended a step for so long is stuck."""


class Stuck(NextclickError):
    """The loop has not beaten in time."""


class Heartbeat:
    """Notes until when the next beat is due. One thread beats, others check."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` counts seconds; the first beat is due STEP_SECONDS from now."""
        self._clock = clock
        self._due = clock() + STEP_SECONDS

    def beat(self, within: float = STEP_SECONDS) -> None:
        """Say that the loop goes on, and that it will say so again within so many seconds."""
        self._due = self._clock() + within

    def check(self) -> None:
        """Raise Stuck if the next beat is overdue."""
        late = self._clock() - self._due
        if late > 0:
            raise Stuck(f"the loop is stuck: its step should have ended {late:.0f} s ago")


HEARTBEAT = Heartbeat()
"""The heart of this process; there is one, like the metrics. Who waits for a server beats too."""
