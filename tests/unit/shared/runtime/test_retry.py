from __future__ import annotations

import logging
import threading

import pytest

from nextclick.shared.errors import ConfigurationError, Unavailable
from nextclick.shared.runtime.retry import RetryUntilAvailable, ShutdownRequested


class Waiting(threading.Event):
    """An event whose waits take no time but move a clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def wait(self, timeout: float | None = None) -> bool:
        self.now += timeout or 0.0
        return self.is_set()


def failing(times: int) -> object:
    left = [times]

    def action(answer: str) -> str:
        left[0] -= 1
        if left[0] >= 0:
            raise Unavailable("Redis is away")
        return answer

    return action


def test_it_goes_on_until_it_works_and_says_so_once_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stop = Waiting()
    until_available = RetryUntilAvailable(stop, logging.getLogger("test"), clock=lambda: stop.now)
    with caplog.at_level(logging.INFO):
        assert until_available(failing(40), "done") == "done"  # type: ignore[arg-type]
    assert 150 < stop.now < 200
    warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 3  # at once, after one minute, after two
    assert caplog.records[-1].message == "available again"


def test_an_action_that_succeeds_at_once_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    assert RetryUntilAvailable(Waiting(), logging.getLogger("test"))(failing(0), "x") == "x"  # type: ignore[arg-type]
    assert caplog.records == []


def test_a_stop_ends_the_waiting() -> None:
    stop = Waiting()
    stop.set()
    with pytest.raises(ShutdownRequested):
        RetryUntilAvailable(stop, logging.getLogger("test"))(failing(5), "x")  # type: ignore[arg-type]


def test_only_unavailable_is_retried() -> None:
    def misconfigured() -> None:
        raise ConfigurationError("wrong password")

    with pytest.raises(ConfigurationError):
        RetryUntilAvailable(Waiting(), logging.getLogger("test"))(misconfigured)


def test_it_backs_off_by_doubling_up_to_five_seconds() -> None:
    stop = Waiting()
    waits: list[float | None] = []
    original = stop.wait

    def wait(timeout: float | None = None) -> bool:
        waits.append(timeout)
        return original(timeout)

    stop.wait = wait  # type: ignore[method-assign]
    RetryUntilAvailable(stop, logging.getLogger("test"))(failing(9), "x")  # type: ignore[arg-type]
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]


def test_each_call_starts_with_the_first_delay_and_its_own_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stop = Waiting()
    until_available = RetryUntilAvailable(stop, logging.getLogger("test"), clock=lambda: stop.now)
    for _ in range(2):
        until_available(failing(2), "x")  # type: ignore[arg-type]
    assert stop.now == pytest.approx(2 * (0.1 + 0.2))
    assert [r.message for r in caplog.records if r.levelno == logging.WARNING] == [
        "waiting: Redis is away"
    ] * 2


def test_what_works_is_done_even_after_a_stop() -> None:
    """A batch in hand is finished: only waiting is cut short."""
    stop = Waiting()
    stop.set()
    assert RetryUntilAvailable(stop, logging.getLogger("test"))(failing(0), "x") == "x"  # type: ignore[arg-type]
    assert stop.now == 0


def test_arguments_are_passed_on_at_every_attempt() -> None:
    seen = []

    def action(a: int, *, b: int) -> int:
        seen.append((a, b))
        if len(seen) < 3:
            raise Unavailable("away")
        return a + b

    assert RetryUntilAvailable(Waiting(), logging.getLogger("test"))(action, 1, b=2) == 3
    assert seen == [(1, 2)] * 3
