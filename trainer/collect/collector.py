"""Clicks from the topic into the event log, and where reading goes on."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from nextclick.shared.errors import (
    BadClick,
    CommitRefused,
    ConfigurationError,
)
from nextclick.shared.kafka import ClickConsumer
from nextclick.shared.messages import Message, offsets_after
from nextclick.shared.runtime import metrics
from nextclick.shared.runtime.heartbeat import HEARTBEAT
from nextclick.shared.runtime.retry import RetryUntilAvailable
from nextclick.shared.schemas import decode_click
from nextclick.trainer.collect.event_log import EventLog

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5


FLUSH_MESSAGES = 20_000


@dataclass
class Collector:
    """Moves clicks from the topic into the event log: files first, then offsets."""

    consumer: ClickConsumer
    event_log: EventLog
    patiently: RetryUntilAvailable
    flush_seconds: float
    clock: Callable[[], float] = time.monotonic
    new_clicks: int = 0
    """Clicks logged since the last retraining."""
    _waiting: list[Message] = field(default_factory=list)
    _flushed_at: float | None = None

    def step(self) -> None:
        """Read what is there and write it out when it is due."""
        self._waiting += self.patiently(self.consumer.poll, FLUSH_MESSAGES, POLL_SECONDS)
        if self._flushed_at is None:
            self._flushed_at = self.clock()
        HEARTBEAT.beat()
        due = self.clock() - self._flushed_at >= self.flush_seconds
        if due or len(self._waiting) >= FLUSH_MESSAGES:
            self.flush()

    def flush(self) -> None:
        """Make everything read so far durable, then commit its offsets."""
        self._flushed_at = self.clock()
        changed: bool = self.patiently(self._has_changed) if self._waiting else False
        if changed:
            self.consumer.read_anew()
        by_partition: dict[int, list[Message]] = {}
        for message in self._waiting:
            by_partition.setdefault(message.partition, []).append(message)
        for partition, messages in by_partition.items():
            rows = [row for message in messages if (row := _row(message)) is not None]
            self.patiently(
                self.event_log.append, partition, messages[0].offset, messages[-1].offset, rows
            )
            self.new_clicks += len(rows)
            metrics.LOGGED_CLICKS.inc(len(rows))
        if self._waiting:
            try:
                self.patiently(self.consumer.commit_now, offsets_after(self._waiting))
            except CommitRefused as refused:  # reading goes on after the files, whoever reads
                log.warning("%s", refused)
        self._waiting = []

    def starts(self, held: Mapping[int, range], partitions: Sequence[int]) -> dict[int, int]:
        """See `start_offsets`; goes over to a topic that was made anew. May raise Unavailable."""
        if self._has_changed():
            self.consumer.read_anew()
        return start_offsets(self.event_log, held, partitions)

    def _has_changed(self) -> bool:
        """Whether the topic is another one than before; if so, go over to it.

        To be asked after reading and before writing: only if it is not, what was read is surely of
        the topic that we think it is.
        """
        topic_id, before = self.consumer.topic_id(), self.event_log.topic_id
        if topic_id == before:
            return False
        self.event_log.use_topic(topic_id)
        if not before:
            return False
        if self._waiting:
            log.warning(
                "the topic was made anew; %d messages are not logged, for nobody knows whether "
                "they are of the former one",
                len(self._waiting),
            )
        self._waiting = []
        return True


def _row(message: Message) -> tuple[str, str, str, int] | None:
    try:
        click = decode_click(message.value)
    except BadClick:  # the worker dead-letters it
        return None
    return click.event_id, click.user_id, click.item_id, click.timestamp


def catch_up(collector: Collector, stop: threading.Event) -> None:
    """Log every click that is on our partitions now."""
    consumer = collector.consumer
    while not stop.is_set() and not (
        consumer.assignment and consumer.assignment <= consumer.read_to_end
    ):
        collector.step()
    collector.flush()


def start_offsets(
    event_log: EventLog, held: Mapping[int, range], partitions: Sequence[int]
) -> dict[int, int]:
    """Where reading goes on: after what the log holds.

    Raises ConfigurationError if the log holds offsets that the topic does not have: it belongs
    to another topic, or Kafka has lost messages.
    """
    starts = {}
    for partition in partitions:
        offset = event_log.next_offset(partition)
        if offset is None:
            starts[partition] = held.get(partition, range(0)).start
        elif offset > (end := held.get(partition, range(0)).stop):
            raise ConfigurationError(
                f"the event log {event_log.folder} is ahead of the topic (partition {partition}: "
                f"{offset} > {end}), so it was written from another topic; "
                "set NEXTCLICK_TRAINER__EVENT_LOG to an empty folder, or move the old one away"
            )
        else:
            starts[partition] = offset
    return starts
