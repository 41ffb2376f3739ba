"""What is done to a process before it runs: crash at a step, or break a promise on purpose."""

from __future__ import annotations

import functools
import os
import signal
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from nextclick.services.worker import main as worker_main
from nextclick.shared.messages import OutMessage


def at_step(step: str, count: int, action: Callable[[], None]) -> None:
    """Let the worker of this process do something when it has reached a step `count` times."""
    left = count

    def on_step(name: str) -> None:
        nonlocal left
        left -= name == step
        if name == step and left == 0:
            action()

    worker_main.run = functools.partial(worker_main.run, on_step=on_step)


def die() -> None:
    """As SIGKILL from outside."""
    os.kill(os.getpid(), signal.SIGKILL)


def crash_at(step: str, count: int) -> Callable[[], None]:
    """For `prepare`: SIGKILL as soon as the worker has reached a step `count` times."""
    return functools.partial(at_step, step, count, die)


def stand_still() -> None:
    """As SIGSTOP from outside."""
    os.kill(os.getpid(), signal.SIGSTOP)


def stop_at(step: str, count: int) -> Callable[[], None]:
    """For `prepare`: SIGSTOP as soon as the worker has reached a step `count` times."""
    return functools.partial(at_step, step, count, stand_still)


def hang_up(*ports: int) -> None:
    """Cut every connection of this process to these ports, as a failing network would."""
    for name in os.listdir("/proc/self/fd"):
        try:
            connection = socket.socket(fileno=os.dup(int(name)))
        except OSError:
            continue  # no socket
        with connection:
            try:
                if connection.getpeername()[1] in ports:
                    connection.shutdown(socket.SHUT_RDWR)
            except (OSError, IndexError):
                continue  # not connected


def hang_up_on_signal(*ports: int) -> None:
    """For `prepare`: SIGUSR1 cuts every connection to these ports."""
    signal.signal(signal.SIGUSR1, lambda *_: hang_up(*ports))


# Promises broken on purpose: the suite must notice each of them.


def append_twice() -> None:
    """Sessions no longer recognise a click that they hold."""
    from itertools import count

    from nextclick.shared.redis import sessions

    numbers = count()
    sessions.event_digest = lambda event_id: next(numbers).to_bytes(8, "big")


def no_fence() -> None:
    """Sessions no longer know how far a user's clicks have been appended."""
    from nextclick.shared.redis import RedisSessions

    append = RedisSessions.append
    RedisSessions.append = lambda self, clicks, places=None: append(self, clicks)  # type: ignore[method-assign]


def commit_before_acknowledged() -> None:
    """Offsets are committed while the answers are still on their way."""
    from nextclick.shared.kafka import Publisher
    from nextclick.shared.kafka.publisher import Receipt

    send = Publisher.send

    def send_and_forget(self: Publisher, messages: Iterable[OutMessage]) -> Receipt:
        send(self, messages)
        return Receipt()

    Publisher.send = send_and_forget  # type: ignore[method-assign]
    Publisher.wait_acknowledged = lambda self, timeout=0.0: None  # type: ignore[method-assign]


def die_between_two_commits(count: int) -> None:
    """Offsets are committed after the transaction instead of in it; it dies in between."""
    from nextclick.services.worker.exactly_once import ExactlyOnce
    from nextclick.shared.kafka import TransactionalPublisher

    left = count
    begin, end = TransactionalPublisher.begin, ExactlyOnce._end

    def begin_without_offsets(
        self: TransactionalPublisher, messages: Any, offsets: Any, *rest: Any
    ) -> Any:
        return begin(self, messages, {}, *rest)

    def end_then_commit(self: ExactlyOnce) -> None:
        nonlocal left
        transaction = self._open
        end(self)
        if transaction is not None:
            left -= 1
            if left == 0:
                die()
            for batch in transaction.batches:
                self._consumer.commit_now(batch.offsets)

    TransactionalPublisher.begin = begin_without_offsets  # type: ignore[method-assign]
    ExactlyOnce._end = end_then_commit  # type: ignore[method-assign]


def one_after_the_other(*tamper: Callable[[], None]) -> Callable[[], None]:
    """For `prepare`: all of these."""
    return functools.partial(_all, tamper)


def _all(tamper: Sequence[Callable[[], None]]) -> None:
    for one in tamper:
        one()
