"""Retries with backoff while a server is unavailable."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from nextclick.shared.errors import Unavailable
from nextclick.shared.runtime.heartbeat import HEARTBEAT, Heartbeat
from nextclick.shared.runtime.rate_limit import RateLimit

P = ParamSpec("P")
T = TypeVar("T")

FIRST_DELAY = 0.1
LONGEST_DELAY = 5.0


class ShutdownRequested(Exception):
    """The process was told to stop while it waited for a server; open work stays uncommitted."""


class RetryUntilAvailable:
    """Retries an action while it raises Unavailable, with backoff and one warning a minute."""

    def __init__(
        self,
        stop: threading.Event,
        log: logging.Logger,
        clock: Callable[[], float] = time.monotonic,
        heartbeat: Heartbeat = HEARTBEAT,
    ) -> None:
        self._stop = stop
        self._heartbeat = heartbeat
        self._log = log
        self._clock = clock

    def __call__(self, action: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return action(...), retried while it raises Unavailable.

        Raises ShutdownRequested if `stop` is set during a wait, and every other error of `action`.
        """
        delay = FIRST_DELAY
        warnings = RateLimit(self._clock)
        waited = False
        while True:
            try:
                result = action(*args, **kwargs)
            except Unavailable as error:
                self._heartbeat.beat()  # waiting for a server is not being stuck
                waited = True
                if warnings.allow():
                    self._log.warning("waiting: %s", error)
                if self._stop.wait(delay):
                    raise ShutdownRequested from None
                delay = min(2 * delay, LONGEST_DELAY)
            else:
                if waited:
                    self._log.info("available again")
                return result
