"""What is done to a process before it runs: crash at a step, or break a promise on purpose."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable

from services.worker import main as worker_main


def at_step(step: str, count: int, action: Callable[[], None]) -> None:
    """Let the worker of this process do something when it has reached a step `count` times."""
    left = count

    def reached(name: str) -> None:
        nonlocal left
        left -= name == step
        if name == step and left == 0:
            action()

    worker_main.run = functools.partial(worker_main.run, reached=reached)


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
