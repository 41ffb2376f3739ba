"""Readers of topics and of consumer lag that do not join a group."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import cast

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from nextclick.shared.errors import Unavailable
from nextclick.shared.kafka.client import (
    BULK,
    LOW_LATENCY,
    MISCONFIGURED_WITHOUT_GROUP,
    REQUEST_SECONDS,
    WITHOUT_GROUP,
    Permission,
    client_config,
    failed,
    make_client,
    partitions_of,
    poll_raw,
    read_message,
    unavailable,
    watermarks_of,
)
from nextclick.shared.kafka.login import Login
from nextclick.shared.kafka.offsets import GroupOffsets
from nextclick.shared.messages import Message
from nextclick.shared.runtime.settings import KafkaSettings

NEW_PARTITIONS_SECONDS = 5.0
"""New partitions of a topic are detected within this time."""


class TopicReader:
    """Reads whole topics without joining a group; commits nothing."""

    def __init__(
        self,
        settings: KafkaSettings,
        topics: Sequence[str],
        *,
        bulk: bool = False,
        at_end: bool = False,
        note_ends: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start at the beginning of the topics, or with `at_end` at their present ends.

        note_ends: keep `ends_reached`.
        """
        self.ends_reached: set[int] = set()
        """Partitions whose end was reached at least once, for a reader of one topic."""
        self._settings = settings
        self._topics = topics
        self._clock = clock
        self._checked_at = clock()
        self._consumer = make_client(
            Consumer,
            {
                **WITHOUT_GROUP,
                "auto.offset.reset": "earliest",
                "enable.partition.eof": note_ends,
                **(BULK if bulk else LOW_LATENCY),
                **client_config(settings),
            },
        )
        self._login = Login(settings, self._consumer, clock)
        self._consumer.assign(
            [
                TopicPartition(topic, partition, offset)
                for topic in topics
                for partition, offset in self._starts(topic, at_end).items()
            ]
        )

    def _starts(self, topic: str, at_end: bool) -> dict[int, int]:
        """Partition → offset to start at.

        Ends are looked up here: librdkafka resolves OFFSET_END later, in its own thread, so a
        message that is sent after the reader was made could be missed.
        """
        if at_end:
            held = watermarks_of(self._settings, self._consumer, topic)
            return {partition: offsets.stop for partition, offsets in held.items()}
        partitions = partitions_of(self._settings, self._consumer, topic)
        return dict.fromkeys(partitions, OFFSET_BEGINNING)

    def unread(self) -> int:
        """Number of offsets from here to the present ends of the topics.

        Raises Unavailable if Kafka does not answer.
        """
        try:
            ahead = 0
            for partition in self._consumer.position(self._consumer.assignment()):
                low, high = self._consumer.get_watermark_offsets(partition, timeout=REQUEST_SECONDS)
                ahead += high - max(low, partition.offset)  # a negative offset: nothing read yet
            return ahead
        except KafkaException as error:
            raise unavailable(self._settings, error) from None

    def poll(self, max_messages: int = 1000, timeout: float = 0.5) -> list[Message]:
        """Wait up to `timeout` seconds for a message; returns it and all others available.

        Raises ConfigurationError for errors that a retry cannot overcome, such as a missing
        permission.
        """
        self._login.renew()
        if self._clock() - self._checked_at >= NEW_PARTITIONS_SECONDS:
            self._checked_at = self._clock()
            with contextlib.suppress(Unavailable):
                self._add_new_partitions()
        deadline = self._clock() + timeout
        while True:
            raws = poll_raw(self._consumer, max_messages, max(0.0, deadline - self._clock()))
            for raw in raws:
                error = raw.error()
                if error is not None and error.code() == KafkaError._PARTITION_EOF:
                    self.ends_reached.add(cast(int, raw.partition()))
                elif error is not None and error.code() in MISCONFIGURED_WITHOUT_GROUP:
                    topic = raw.topic() or " and ".join(self._topics)
                    raise failed(self._settings, error, Permission("Read", "topic", topic))
            messages = [read_message(raw) for raw in raws if raw.error() is None]
            # After a transient error, go on waiting.
            if messages or not raws or self._clock() >= deadline:
                return messages

    def _add_new_partitions(self) -> None:
        known = {(place.topic, place.partition) for place in self._consumer.assignment()}
        now = {
            (topic, partition)
            for topic in self._topics
            for partition in partitions_of(self._settings, self._consumer, topic, timeout=1.0)
        }
        # All of their messages are new, too.
        new = [TopicPartition(*place, OFFSET_BEGINNING) for place in sorted(now - known)]
        if new:
            self._consumer.incremental_assign(new)

    def close(self) -> None:
        """Close the connections."""
        self._consumer.close()


class LagMonitor(GroupOffsets):
    """Measures the lag of a consumer group. Thread-safe."""

    def ping(self, timeout: float) -> None:
        """Raise Unavailable unless the leader of each partition answers within `timeout` seconds.

        A metadata request is not enough: a broker that lost the others answers it from its cache.
        """
        self._login.renew()
        watermarks_of(self._settings, self._consumer, self._topic, timeout)

    def lag(self) -> int:
        """Number of messages of the topic that the group has not committed yet.

        Raises Unavailable if Kafka does not answer.
        """
        return sum(self.lags().values())

    def lags(self) -> dict[int, int]:
        """The same by partition."""
        committed = self.committed()
        # Requested after the committed offsets, so that the difference cannot be negative.
        held = watermarks_of(self._settings, self._consumer, self._topic)
        # Removed messages are no lag, and a recreated topic may be shorter than the committed
        # offsets of the former one.
        return {
            p: len(range(max(held[p].start, offset), held[p].stop))
            for p, offset in committed.items()
            if p in held
        }
