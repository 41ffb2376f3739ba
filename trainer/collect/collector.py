"""Copies clicks from the topic into the event log, and determines where reading resumes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from nextclick.shared.click_rules import ClickRules
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
from nextclick.trainer.collect.event_log import EventLog, Row

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5


FLUSH_MESSAGES = 20_000


@dataclass
class Collector:
    """Copies clicks from the topic into the event log: writes files first, then commits offsets."""

    consumer: ClickConsumer
    event_log: EventLog
    until_available: RetryUntilAvailable
    flush_seconds: float
    rules: ClickRules = field(default_factory=ClickRules)
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time
    """Seconds since the epoch: no click has arrived later."""
    new_clicks: int = 0
    """Clicks logged since the last retraining."""
    _unlogged: list[Message] = field(default_factory=list)
    _flushed_at: float | None = None

    def __post_init__(self) -> None:
        self.consumer.on_removed = self._forget

    def step(self) -> None:
        """Poll once; flush if `flush_seconds` have passed or FLUSH_MESSAGES are read."""
        messages = self.until_available(self.consumer.poll, FLUSH_MESSAGES, POLL_SECONDS)
        self._unlogged += messages  # not sooner: the poll may replace the list
        if self._flushed_at is None:
            self._flushed_at = self.clock()
        HEARTBEAT.beat()
        due = self.clock() - self._flushed_at >= self.flush_seconds
        if due or len(self._unlogged) >= FLUSH_MESSAGES:
            self.flush()

    def flush(self) -> None:
        """Write everything read so far to the event log, then commit its offsets."""
        self._flushed_at = self.clock()
        changed: bool = self.until_available(self._topic_changed) if self._unlogged else False
        if changed:
            self.consumer.read_anew()
        now_ms = int(self.now() * 1000)
        by_partition: dict[int, list[Message]] = {}
        for message in self._unlogged:
            by_partition.setdefault(message.partition, []).append(message)
        for partition, messages in by_partition.items():
            rows = [row for message in messages if (row := self._row(message, now_ms)) is not None]
            self.until_available(
                self.event_log.append, partition, messages[0].offset, messages[-1].offset, rows
            )
            self.new_clicks += len(rows)
            metrics.LOGGED_CLICKS.inc(len(rows))
        if self._unlogged:
            try:
                self.until_available(self.consumer.commit_now, offsets_after(self._unlogged))
            except CommitRefused as refused:  # harmless: reading resumes after the files
                log.warning("%s", refused)
        self._unlogged = []

    def _row(self, message: Message, now_ms: int) -> Row | None:
        try:
            click = self.rules.read(message)
        except BadClick:  # the worker dead-letters it
            return None
        if click is None:
            return None
        arrival = now_ms if message.timestamp_ms is None else min(message.timestamp_ms, now_ms)
        return Row(
            click.event_id, click.user_id, click.item_id, click.timestamp, click.event_type, arrival
        )

    def _forget(self, partitions: set[int]) -> None:
        """These are not ours any more: whoever has them reads on after the log.

        What we have read of them is not logged. If they come back we do not read on where we were,
        and a file that spans what others have logged in between would cover their files.
        """
        self._unlogged = [m for m in self._unlogged if m.partition not in partitions]

    def starts(
        self, retained: Callable[[], Mapping[int, range]], partitions: Sequence[int]
    ) -> dict[int, int]:
        """See `start_offsets`; first checks whether the topic was recreated. Raises Unavailable."""
        if self._topic_changed():
            self.consumer.read_anew()
        return start_offsets(self.event_log, retained, partitions)

    def _topic_changed(self) -> bool:
        """Whether the topic was recreated; if so, switch to the new one and drop unlogged clicks.

        Called after reading and before writing: if the topic is unchanged then, the clicks were
        certainly read from it.
        """
        topic_id, before = self.consumer.topic_id(), self.event_log.topic_id
        if topic_id == before:
            return False
        self.event_log.use_topic(topic_id)
        if not before:
            return False
        if self._unlogged:
            log.warning(
                "the topic was recreated; %d messages are not logged: it is unknown whether "
                "they are from the former topic",
                len(self._unlogged),
            )
        self._unlogged = []
        return True


def catch_up(collector: Collector, stop: threading.Event) -> None:
    """Log all clicks up to the present end of our partitions."""
    consumer = collector.consumer
    while not stop.is_set() and not (
        consumer.assignment and consumer.assignment <= consumer.read_to_end
    ):
        collector.step()
    collector.flush()


def start_offsets(
    event_log: EventLog, retained: Callable[[], Mapping[int, range]], partitions: Sequence[int]
) -> dict[int, int]:
    """Partition → offset to resume at: the one after the newest in the log.

    retained: asks for the offsets that the topic has. Raises ConfigurationError if the log is ahead
    of them: it was written from another topic, or Kafka has lost messages.
    """
    logged = {partition: event_log.next_offset(partition) for partition in partitions}
    held = retained()  # later than the log, which another trainer may write meanwhile
    starts = {}
    for partition, offset in logged.items():
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
