"""A collector in a thread of its own."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest

from nextclick.shared.errors import ConfigurationError
from nextclick.shared.messages import Message
from nextclick.shared.runtime.background import BackgroundThread
from nextclick.shared.runtime.retry import RetryUntilAvailable
from nextclick.trainer.collect import EventLog
from nextclick.trainer.collect.collector import Collector
from nextclick.trainer.collect.main import collector_thread
from tests.unit.trainer.collect.test_collector import Topic, click


class Endless(Topic):
    """A consumer that is closed at the end, and may fail in a poll."""

    failure: Exception | None = None

    def __init__(self, *polls: list[Message]) -> None:
        super().__init__(*polls)
        self.polled = threading.Event()
        self.closed_in = ""

    def poll(self, max_messages: int, timeout: float) -> list[Message]:
        if self.failure is not None:
            raise self.failure
        messages = super().poll(max_messages, timeout)
        if not messages:
            self.polled.set()
        return messages

    def close(self) -> None:
        self.closed_in = threading.current_thread().name


def thread_of(topic: Endless, folder: Path) -> tuple[BackgroundThread, threading.Event]:
    stop = threading.Event()
    topic.log = EventLog(str(folder))
    until_available = RetryUntilAvailable(stop, logging.getLogger("test"))
    ours = Collector(topic, topic.log, until_available, 3600.0)  # type: ignore[arg-type]
    return collector_thread(ours, stop), stop


def test_the_end_of_the_context_writes_what_was_read_and_leaves_the_group(tmp_path: Path) -> None:
    topic = Endless([click(0, 0), click(0, 1)])
    thread, stop = thread_of(topic, tmp_path)
    with thread:
        assert topic.polled.wait(10)
        thread.check()
    assert stop.is_set()
    assert EventLog(str(tmp_path)).count() == 2
    assert topic.closed_in == "collector"


def test_an_error_ends_it_loudly(tmp_path: Path) -> None:
    topic = Endless()
    topic.failure = ConfigurationError("the event log is ahead of the topic")
    thread, stop = thread_of(topic, tmp_path)
    with pytest.raises(ConfigurationError, match="ahead of the topic"), thread:
        stop.wait(0)
    assert thread.has_failed
    assert topic.closed_in == "collector"
    with pytest.raises(ConfigurationError):
        thread.check()


def test_the_error_of_the_process_comes_first(tmp_path: Path) -> None:
    topic = Endless()
    topic.failure = ConfigurationError("the event log is ahead of the topic")
    thread, _ = thread_of(topic, tmp_path)
    with pytest.raises(ZeroDivisionError), thread:
        raise ZeroDivisionError
