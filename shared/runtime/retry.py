"""Waiting for what time heals."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from nextclick.shared.errors import Unavailable
from nextclick.shared.runtime.heartbeat import HEARTBEAT

P = ParamSpec("P")
T = TypeVar("T")

FIRST_DELAY = 0.1
LONGEST_DELAY = 5.0
REMIND_SECONDS = 60.0


class ShutdownRequested(Exception):
    """The process was asked to stop while it waited; work in hand is left uncommitted."""


class Reminder:
    """Says when something that goes on is to be said: at once, and then once a minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said: float | None = None

    @property
    def said(self) -> bool:
        """Whether it was said at all."""
        return self._said is not None

    def due(self) -> bool:
        """Whether to say it now; counts as said if so."""
        now = self._clock()
        if self._said is not None and now - self._said < REMIND_SECONDS:
            return False
        self._said = now
        return True

    def reset(self) -> None:
        """It is over: the next time is a first time."""
        self._said = None


class RetryUntilAvailable:
    """Calls an action until it works: backs off, and says so at once and then once a minute."""

    def __init__(
        self,
        stop: threading.Event,
        log: logging.Logger,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stop = stop
        self._log = log
        self._clock = clock

    def __call__(self, action: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return action(...), called again while it raises Unavailable.

        Raises ShutdownRequested if `stop` is set meanwhile.
        """
        delay = FIRST_DELAY
        reminder = Reminder(self._clock)
        while True:
            try:
                result = action(*args, **kwargs)
            except Unavailable as error:
                HEARTBEAT.beat()  # waiting for a server is not being stuck
                if reminder.due():
                    self._log.warning("waiting: %s", error)
                if self._stop.wait(delay):
                    raise ShutdownRequested from None
                delay = min(2 * delay, LONGEST_DELAY)
            else:
                if reminder.said:
                    self._log.info("going on")
                return result
