"""Requests that wait at the same moment are answered together, by one thread.

The event loop puts questions into a queue; the thread takes one, and with it all others at hand,
and answers them in one go: one round trip to Redis, one forward pass. It never waits for a batch to
fill; under load batches fill by themselves.
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
    """More requests wait than can be answered soon."""


class MicroBatcher(Generic[Q, A]):
    """A thread that answers questions from an event loop."""

    def __init__(
        self,
        name: str,
        answer: Callable[[list[Q]], Sequence[A]],
        *,
        max_batch: int,
        max_waiting: int,
        prepare: Callable[[], None] = lambda: None,
    ) -> None:
        """`answer` gives as many answers as it gets questions, in order; it runs in the thread.

        What it raises is raised to everyone who waits for that batch. `prepare` runs in the thread
        before; if it fails, `answer` has to see to it.
        """
        self._name = name
        self._answer = answer
        self._prepare = prepare
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._waiting = 0
        self._began: float | None = None
        self._queue: SimpleQueue[tuple[Q, asyncio.Future[A]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def check(self) -> None:
        """Raise Unavailable if the thread is dead, or in one and the same batch for too long."""
        began = self._began
        if not self._thread.is_alive():
            raise Unavailable(f"the thread {self._name} has ended")
        if began is not None and time.monotonic() - began > STUCK_SECONDS:
            raise Unavailable(f"the thread {self._name} is stuck since {STUCK_SECONDS:g} s")

    def stop(self) -> None:
        """Answer what waits, then end."""
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join()

    async def ask(self, question: Q) -> A:
        """Wait for the answer to a question.

        Raises Overloaded at once if too many wait already, else whatever answering raises.
        """
        if self._waiting >= self._max_waiting:
            raise Overloaded(f"{self._waiting} requests wait for {self._name} already")
        self._waiting += 1
        try:
            future: asyncio.Future[A] = asyncio.get_running_loop().create_future()
            self._queue.put((question, future))
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
            answers = self._answer([question for question, _ in batch])
        except Exception as error:
            _in_loop(futures, _fail, futures, error)
        else:
            _in_loop(futures, _settle, futures, answers)
        finally:
            self._began = None


def _in_loop(futures: Sequence[asyncio.Future[A]], *call: object) -> None:
    function, *arguments = call
    assert callable(function)
    try:
        futures[0].get_loop().call_soon_threadsafe(function, *arguments)
    except RuntimeError:  # the loop is closed: nobody waits any more
        log.debug("nobody waits for %d answers", len(futures))


def _settle(futures: Sequence[asyncio.Future[A]], answers: Sequence[A]) -> None:
    for future, answer in zip(futures, answers, strict=True):
        if not future.done():  # whoever asked may have gone
            future.set_result(answer)


def _fail(futures: Sequence[asyncio.Future[A]], error: Exception) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(error)
