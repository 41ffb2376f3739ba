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
    NextclickError,
)
from nextclick.shared.kafka import ClickConsumer
from nextclick.shared.messages import Message, offsets_after
from nextclick.shared.runtime import metrics
from nextclick.shared.runtime.heartbeat import HEARTBEAT, Heartbeat
from nextclick.shared.runtime.retry import RetryUntilAvailable
from nextclick.trainer.collect.click_table import Row
from nextclick.trainer.collect.event_log import EventLog

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5


FLUSH_MESSAGES = 20_000

MAINTENANCE_SECONDS = 600.0
"""Time between two rounds of maintenance of the event log, see EventLog.maintain."""
_LONGEST_MAINTENANCE_SECONDS = 3600.0


@dataclass
class Collector:
    """Copies clicks from the topic into the event log: appends first, then commits offsets."""

    consumer: ClickConsumer
    event_log: EventLog
    until_available: RetryUntilAvailable
    flush_seconds: float
    keep_days: int = 0
    """Days to keep clicks in the event log; 0: for ever."""
    rules: ClickRules = field(default_factory=ClickRules)
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time
    """Seconds since the epoch: no click has arrived later."""
    heartbeat: Heartbeat = HEARTBEAT
    _unlogged: list[Message] = field(default_factory=list)
    _flushed_at: float | None = None
    _maintained_at: float | None = None

    def __post_init__(self) -> None:
        self.consumer.on_removed = self._forget

    def step(self) -> None:
        """Poll once; flush if `flush_seconds` have passed or FLUSH_MESSAGES are read.

        Every MAINTENANCE_SECONDS the log is maintained, too.
        """
        messages = self.until_available(self.consumer.poll, FLUSH_MESSAGES, POLL_SECONDS)
        self._unlogged += messages  # not sooner: the poll may replace the list
        if self._flushed_at is None or self._maintained_at is None:
            self._flushed_at = self._maintained_at = self.clock()
        self.heartbeat.beat()
        due = self.clock() - self._flushed_at >= self.flush_seconds
        if due or len(self._unlogged) >= FLUSH_MESSAGES:
            self.flush()
        if self.clock() - self._maintained_at >= MAINTENANCE_SECONDS:
            self.maintain()

    def maintain(self) -> None:
        """Retention and compaction of the log. Not essential: an error is only logged."""
        self._maintained_at = self.clock()
        self.heartbeat.beat(within=_LONGEST_MAINTENANCE_SECONDS)
        try:
            done = self.event_log.maintain(self.keep_days)
        except NextclickError as error:
            log.warning("the event log was not compacted: %s", error)
            return
        if done.rows_deleted:
            log.info("event log: %d clicks were too old and are deleted", done.rows_deleted)
        if done.files_after != done.files_before:
            log.info("event log: %d files became %d", done.files_before, done.files_after)

    def flush(self) -> None:
        """Write everything read so far to the event log, then commit its offsets."""
        self._flushed_at = self.clock()
        changed: bool = self.until_available(self._topic_changed) if self._unlogged else False
        if changed:
            self.consumer.read_anew()
        now_ms = int(self.now() * 1000)
        rows = [row for m in self._unlogged if (row := self._row(m, now_ms)) is not None]
        if self._unlogged:
            ends = offsets_after(self._unlogged)
            metrics.LOGGED_CLICKS.inc(self.until_available(self.event_log.append, rows, ends))
            try:
                self.until_available(self.consumer.commit_now, ends)
            except CommitRefused as refused:  # harmless: reading resumes after the log
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
            click.event_id,
            click.user_id,
            click.item_id,
            click.timestamp,
            click.event_type,
            arrival,
            message.partition,
            message.offset,
        )

    def _forget(self, partitions: set[int]) -> None:
        """These are not ours any more: whoever has them reads on after the log.

        What we have read of them is not logged. If they come back, reading resumes where the log
        ends, and what we had read would be in hand twice.
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
        self.event_log.topic_id = topic_id
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
    logged = event_log.next_offsets(partitions)
    held = retained()  # later than the log, which another trainer may write meanwhile
    starts = {}
    for partition in partitions:
        in_topic = held.get(partition, range(0))
        offset = logged.get(partition, in_topic.start)
        if offset > in_topic.stop:
            raise ConfigurationError(
                f"the event log {event_log.url} is ahead of the topic (partition {partition}: "
                f"{offset} > {in_topic.stop}), so it was written from another topic; "
                "set NEXTCLICK_TRAINER__EVENT_LOG to an empty folder, or move the old one away"
            )
        starts[partition] = offset
    return starts
