"""Clicks from the topic into the event log, and where reading goes on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from nextclick.shared.errors import ConfigurationError, Unavailable
from nextclick.shared.messages import Message
from nextclick.shared.runtime.retry import RetryUntilAvailable, ShutdownRequested
from nextclick.shared.schemas import Click
from nextclick.trainer.collect import EventLog, Row
from nextclick.trainer.collect.collector import Collector, start_offsets


class Topic:
    """A consumer that hands out prepared polls and remembers what was committed."""

    def __init__(self, *polls: list[Message]) -> None:
        self.polls = list(polls)
        self.committed: list[tuple[int, int]] = []
        self.log: EventLog | None = None
        self.logged_at_commit: list[int] = []
        self.id = "a"
        self.read_anew_of: list[str] = []
        self.within_poll: Callable[[], object] = lambda: None
        self.on_removed: Callable[[set[int]], None]

    def poll(self, max_messages: int, timeout: float) -> list[Message]:
        self.within_poll()
        return self.polls.pop(0) if self.polls else []

    def topic_id(self) -> str:
        return self.id

    def read_anew(self) -> None:
        self.read_anew_of.append(self.id)

    def commit_now(self, offsets: dict[int, int]) -> None:
        assert self.log is not None
        self.logged_at_commit.append(self.log.count())
        self.committed += offsets.items()


def move_on(event_log: EventLog, partition: int, end: int) -> None:
    """Somebody has logged the partition up to here, without a valid click."""
    event_log.append([], {partition: end})


def click(partition: int, offset: int) -> Message:
    value = Click(event_id=f"e{partition}-{offset}", user_id="u", item_id="i", timestamp=offset)
    return Message("clicks", partition, offset, b"u", value.model_dump_json().encode())


@pytest.fixture
def event_log(tmp_path: Path) -> EventLog:
    return EventLog(str(tmp_path / "log"))


def collector(topic: Topic, event_log: EventLog, times: list[float]) -> Collector:
    topic.log = event_log
    until_available = RetryUntilAvailable(threading.Event(), logging.getLogger("test"))
    return Collector(topic, event_log, until_available, 5.0, clock=lambda: times[0])  # type: ignore[arg-type]


def test_clicks_are_durable_before_their_offsets_are_committed(event_log: EventLog) -> None:
    topic = Topic([click(0, 7), click(1, 3), click(0, 8)])
    ours = collector(topic, event_log, [0.0])
    ours.step()
    ours.flush()
    assert topic.logged_at_commit == [3]
    assert topic.committed == [(0, 9), (1, 4)]
    assert event_log.count() == 3
    assert event_log.next_offsets([0, 1]) == {0: 9, 1: 4}


def test_clicks_are_appended_when_they_are_due_and_not_before(event_log: EventLog) -> None:
    times = [100.0]
    topic = Topic([click(0, 0)], [click(0, 1)], [], [click(0, 2)])
    ours = collector(topic, event_log, times)
    counts = []
    for times[0] in (100.0, 104.9, 105.0, 109.9, 110.0):
        ours.step()
        counts.append(event_log.count())
    assert counts == [0, 0, 2, 2, 3]


def test_many_clicks_are_appended_at_once(
    event_log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nextclick.trainer.collect.collector.FLUSH_MESSAGES", 3)
    topic = Topic([click(0, 0), click(0, 1)], [click(0, 2)])
    ours = collector(topic, event_log, [0.0])
    ours.step()
    assert event_log.count() == 0
    ours.step()
    assert event_log.count() == 3


def test_what_is_no_click_is_passed_over_but_its_offset_is_not(event_log: EventLog) -> None:
    topic = Topic([click(0, 0), Message("clicks", 0, 1, None, b"?")], [])
    ours = collector(topic, event_log, [0.0])
    ours.step()
    ours.flush()
    assert event_log.count() == 1
    assert event_log.next_offsets([0]) == {0: 2}
    assert topic.committed[-1] == (0, 2)


def test_nothing_is_written_or_committed_twice(event_log: EventLog) -> None:
    topic = Topic([click(0, 0)])
    ours = collector(topic, event_log, [0.0])
    ours.step()
    ours.flush()
    ours.flush()
    assert topic.committed == [(0, 1)]
    assert event_log.count() == 1


def test_nothing_is_committed_while_the_log_cannot_be_written(
    event_log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = Topic([click(0, 0)])
    ours = collector(topic, event_log, [0.0])
    ours.step()
    stop = threading.Event()
    stop.set()
    ours.until_available = RetryUntilAvailable(stop, logging.getLogger("test"))

    def full(rows: list[Row], next_offsets: dict[int, int]) -> int:
        raise Unavailable("no space left on device")

    monkeypatch.setattr(event_log, "append", full)
    with pytest.raises(ShutdownRequested):
        ours.flush()
    assert topic.committed == []
    assert event_log.count() == 0


def test_reading_goes_on_after_what_the_log_holds(event_log: EventLog) -> None:
    event_log.append([], {1: 5, 2: 10})
    held = {0: range(7, 100), 1: range(3, 100), 2: range(10)}
    starts = start_offsets(event_log, lambda: held, [0, 1, 2])
    assert starts == {0: 7, 1: 5, 2: 10}


def test_a_log_of_another_topic_is_refused(event_log: EventLog) -> None:
    move_on(event_log, 1, 5)
    with pytest.raises(ConfigurationError, match="NEXTCLICK_TRAINER__EVENT_LOG"):
        start_offsets(event_log, lambda: {0: range(100), 1: range(4)}, [0, 1])


def test_what_may_be_of_a_former_topic_is_not_logged(
    event_log: EventLog, caplog: pytest.LogCaptureFixture
) -> None:
    topic = Topic([click(0, 7), click(0, 8)], [click(0, 9)], [click(0, 0)])
    ours = collector(topic, event_log, [0.0])
    ours.starts(dict, [0])
    ours.step()
    ours.flush()
    ours.step()
    topic.id = "b"
    ours.flush()
    assert topic.read_anew_of == ["b"]
    assert "1 messages are not logged" in caplog.text
    ours.starts(lambda: {0: range(5)}, [0])
    ours.step()
    ours.flush()
    assert event_log.read()["event_id"].tolist() == ["e0-7", "e0-8", "e0-0"]
    assert event_log.next_offsets([0]) == {0: 1}


def test_a_topic_made_anew_is_noticed_when_partitions_are_assigned(event_log: EventLog) -> None:
    topic = Topic([click(0, 7)])
    ours = collector(topic, event_log, [0.0])
    ours.starts(dict, [0, 1])
    ours.step()
    topic.id = "b"
    assert ours.starts(lambda: {0: range(3), 1: range(3)}, [1]) == {1: 0}
    assert topic.read_anew_of == ["b"], "of the partitions that stay, too"
    ours.flush()
    assert event_log.count() == 0


def test_the_same_within_a_poll(event_log: EventLog) -> None:
    topic = Topic([click(0, 7)], [])
    ours = collector(topic, event_log, [0.0])
    ours.starts(dict, [0])
    ours.step()
    topic.id = "b"
    topic.within_poll = lambda: ours.starts(lambda: {0: range(3)}, [0])
    ours.step()
    ours.flush()
    assert event_log.count() == 0


def test_what_was_read_of_partitions_that_went_is_left_to_others(event_log: EventLog) -> None:
    """Else, when they come back, they would be in hand twice."""
    topic = Topic([click(0, 5), click(1, 3)], [], [click(0, 7)])
    ours = collector(topic, event_log, [0.0])
    ours.starts(dict, [0, 1])
    ours.step()
    topic.within_poll = lambda: topic.on_removed({0})
    ours.step()
    topic.within_poll = lambda: None
    event_log.append([Row(f"e0-{i}", "u", "i", i, "click", i, 0, i) for i in (5, 6)], {0: 7})
    ours.step()
    ours.flush()
    assert sorted(event_log.read()["event_id"]) == ["e0-5", "e0-6", "e0-7", "e1-3"]


def test_the_log_is_read_before_what_the_topic_holds(event_log: EventLog) -> None:
    """Both grow: another trainer may log meanwhile what was not on the topic before."""

    def held() -> dict[int, range]:
        move_on(event_log, 0, 5)
        return {0: range(3)}

    assert start_offsets(event_log, held, [0]) == {0: 0}


def test_what_others_have_logged_meanwhile_is_committed_and_not_logged_again(
    event_log: EventLog,
) -> None:
    topic = Topic([click(0, 0), click(0, 1), click(1, 0)])
    ours = collector(topic, event_log, [0.0])
    ours.step()
    other = EventLog(event_log.url)
    other.topic_id = topic.id
    other.append([Row("e0-0", "u", "i", 0, "click", 0, 0, 0)], {0: 1})
    ours.flush()
    assert event_log.count() == 3
    assert topic.committed == [(0, 2), (1, 1)]


def test_the_log_is_maintained_every_now_and_then(
    event_log: EventLog, caplog: pytest.LogCaptureFixture
) -> None:
    times = [0.0]
    topic = Topic(*([click(0, i)] for i in range(4)))
    ours = collector(topic, event_log, times)
    caplog.set_level(logging.INFO)
    for times[0] in (0.0, 10.0, 20.0):
        ours.step()
    assert "became" not in caplog.text
    times[0] = 600.0
    ours.step()
    assert "3 files became 1" in caplog.text
    assert event_log.count() == 4


def test_a_maintenance_that_fails_is_logged_only(
    event_log: EventLog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(keep_days: int) -> None:
        raise Unavailable("no space left on device")

    monkeypatch.setattr(event_log, "maintain", fails)
    collector(Topic(), event_log, [0.0]).maintain()
    assert "the event log was not compacted: no space left" in caplog.text
