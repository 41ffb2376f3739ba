"""A thread as a context."""

from __future__ import annotations

import threading

import pytest

from nextclick.shared.runtime.background import BackgroundThread


def test_it_runs_until_its_context_ends() -> None:
    began, ended = threading.Event(), threading.Event()

    def run(stop: threading.Event) -> None:
        began.set()
        stop.wait()
        ended.set()

    with BackgroundThread("test", run) as thread:
        assert began.wait(10)
        thread.check()
        assert not ended.is_set()
    assert ended.is_set()
    assert not thread.has_failed


def fail(stop: threading.Event) -> None:
    raise LookupError("nothing there")


def test_what_ends_it_is_raised_by_a_check_and_at_the_end() -> None:
    with pytest.raises(LookupError, match="nothing there"), BackgroundThread("test", fail):
        pass
    thread = BackgroundThread("test", fail)
    thread.start()
    thread.stop()
    assert thread.has_failed
    with pytest.raises(LookupError):
        thread.check()


def test_an_error_within_the_context_comes_first() -> None:
    with pytest.raises(ZeroDivisionError), BackgroundThread("test", fail):
        raise ZeroDivisionError


def test_one_that_was_not_started_may_be_stopped() -> None:
    BackgroundThread("test", fail).stop()


def test_the_wait_for_its_end_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    go = threading.Event()
    thread = BackgroundThread("stuck", lambda stop: go.wait() and None, stop_seconds=0.01)
    thread.start()
    thread.stop()
    assert "not waiting for the thread stuck" in caplog.text
    go.set()
    thread.stop()
