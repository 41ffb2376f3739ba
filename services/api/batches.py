"""Micro-batching: one thread answers all requests that wait at the same time together.

The event loop puts requests into a queue; the thread takes all that are in it, up to `max_batch`,
and answers them in one call: one round trip to Redis, one forward pass. It never waits for a batch
to fill; under load, batches fill by themselves.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from nextclick.shared.errors import NextclickError, Unavailable

log = logging.getLogger(__name__)

STUCK_SECONDS = 30.0

Q = TypeVar("Q")
A = TypeVar("A")


class Overloaded(Unavailable):
    """Too many requests are waiting."""


class MicroBatcher(Generic[Q, A]):
    """A thread that answers requests from an event loop in batches."""

    def __init__(
        self,
        name: str,
        answer: Callable[[list[Q]], Sequence[A]],
        *,
        max_batch: int,
        max_waiting: int,
        prepare: Callable[[], None] = lambda: None,
    ) -> None:
        """`answer` runs in the thread and returns one answer per request, in order.

        An error of `answer` is raised to all requests of its batch. `prepare` runs once in the
        thread before the first batch; if it raises a NextclickError, `answer` must do its work.
        """
        self.name = name
        self._answer = answer
        self._prepare = prepare
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._waiting = 0
        self._began: float | None = None
        self._queue: SimpleQueue[tuple[Q, asyncio.Future[A]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def check(self) -> None:
        """Raise Unavailable if the thread is dead, or one batch takes more than STUCK_SECONDS."""
        began = self._began
        if not self._thread.is_alive():
            raise Unavailable(f"the thread {self.name} has ended")
        if began is not None and time.monotonic() - began > STUCK_SECONDS:
            raise Unavailable(f"the thread {self.name} is stuck since {STUCK_SECONDS:g} s")

    def stop(self) -> None:
        """Answer the waiting requests, then end the thread."""
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join()

    async def submit(self, request: Q) -> A:
        """Wait for the answer to a request.

        Raises Overloaded at once if `max_waiting` requests wait already, else what `answer` raises.
        """
        if self._waiting >= self._max_waiting:
            raise Overloaded(f"{self._waiting} requests wait for {self.name} already")
        self._waiting += 1
        try:
            future: asyncio.Future[A] = asyncio.get_running_loop().create_future()
            self._queue.put((request, future))
            return await future
        finally:
            self._waiting -= 1

    def _run(self) -> None:
        try:
            self._prepare()
        except NextclickError as error:
            log.warning("%s", error)
        while (first := self._queue.get()) is not None:
            batch, last = [first], False
            while len(batch) < self._max_batch:
                try:
                    following = self._queue.get_nowait()
                except Empty:
                    break
                if following is None:
                    last = True
                    break
                batch.append(following)
            self._answer_all(batch)
            if last:
                return

    def _answer_all(self, batch: list[tuple[Q, asyncio.Future[A]]]) -> None:
        futures = [future for _, future in batch]
        self._began = time.monotonic()
        try:
            answers = self._answer([request for request, _ in batch])
        except Exception as error:
            _call_in_loop(futures, _set_error, futures, error)
        else:
            _call_in_loop(futures, _set_results, futures, answers)
        finally:
            self._began = None


def _call_in_loop(futures: Sequence[asyncio.Future[A]], *call: object) -> None:
    function, *arguments = call
    assert callable(function)
    try:
        futures[0].get_loop().call_soon_threadsafe(function, *arguments)
    except RuntimeError:  # the event loop is closed
        log.debug("%d answers dropped: the event loop is closed", len(futures))


def _set_results(futures: Sequence[asyncio.Future[A]], answers: Sequence[A]) -> None:
    for future, answer in zip(futures, answers, strict=True):
        if not future.done():  # done if the client has disconnected
            future.set_result(answer)


def _set_error(futures: Sequence[asyncio.Future[A]], error: Exception) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(error)
