"""Liveness of a loop: it beats after every step, and /healthz checks the beat."""

from __future__ import annotations

import time
from collections.abc import Callable

from nextclick.shared.errors import NextclickError

STEP_SECONDS = 60.0
"""Longest step of a loop; one that takes longer is stuck."""


class Stuck(NextclickError):
    """The loop has not beaten in time."""


class Heartbeat:
    """Knows when the next beat is due. One thread beats, others check."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """The first beat is due in STEP_SECONDS. `clock` gives seconds."""
        self._clock = clock
        self._due = clock() + STEP_SECONDS

    def beat(self, within: float = STEP_SECONDS) -> None:
        """Record progress; the next beat is due within so many seconds."""
        self._due = self._clock() + within

    def check(self) -> None:
        """Raise Stuck if the next beat is overdue."""
        late = self._clock() - self._due
        if late > 0:
            raise Stuck(f"the loop is stuck: its step should have ended {late:.0f} s ago")


HEARTBEAT = Heartbeat()
"""That of the process's main loop. A loop that waits for a server beats, too."""
