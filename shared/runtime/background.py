"""A background thread as a context, for whoever does one thing until it is told to stop."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

log = logging.getLogger(__name__)


class BackgroundThread:
    """Runs a function in a thread of its own; as a context, from its beginning to its end.

    The thread is a daemon: a call that hangs must not keep a process alive that has failed
    elsewhere.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[threading.Event], None],
        stop: threading.Event | None = None,
        stop_seconds: float | None = None,
    ) -> None:
        """run: gets the event that is set when it must end.

        stop: that event, if others set it, too. stop_seconds: the longest wait for the end; None:
        as long as it takes.
        """
        self._run_until = run
        self._stop = stop or threading.Event()
        self._stop_seconds = stop_seconds
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def has_failed(self) -> bool:
        """Whether the thread has ended by an error."""
        return self._error is not None

    def check(self) -> None:
        """Raise the error that has ended the thread, if one has."""
        if self._error is not None:
            raise self._error

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Set the event, and wait for the thread if it was started."""
        self._stop.set()
        if not self._thread.is_alive():
            return
        self._thread.join(self._stop_seconds)
        if self._thread.is_alive():
            log.warning("not waiting for the thread %s any longer", self._thread.name)

    def __enter__(self) -> Self:
        """Start the thread."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the thread; raises its error unless another one is on its way."""
        self.stop()
        if error is None:
            self.check()

    def _run(self) -> None:
        try:
            self._run_until(self._stop)
        except BaseException as error:
            self._error = error
