"""Looking at topics and groups from outside any group."""

from __future__ import annotations

from collections.abc import Sequence

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition

from nextclick.shared.kafka.client import (
    BULK,
    LOW_LATENCY,
    REQUEST_SECONDS,
    client_config,
    make_client,
    partitions_of,
    poll_raw,
    read_message,
    unavailable,
    watermarks_of,
)
from nextclick.shared.kafka.offsets import GroupOffsets
from nextclick.shared.messages import Message
from nextclick.shared.runtime.settings import KafkaSettings


class TopicReader:
    """Reads whole topics without joining a group: it commits nothing and disturbs nobody."""

    def __init__(
        self,
        settings: KafkaSettings,
        topics: Sequence[str],
        *,
        bulk: bool = False,
        at_end: bool = False,
    ) -> None:
        """Start at the beginning of the topics, or at their ends as they are now."""
        self._settings = settings
        self._consumer = make_client(
            Consumer,
            {
                # librdkafka wants a name even of a consumer that never joins the group.
                "group.id": "nextclick-reader",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                **(BULK if bulk else LOW_LATENCY),
                **client_config(settings),
            },
        )
        self._consumer.assign(
            [
                TopicPartition(topic, partition, offset)
                for topic in topics
                for partition, offset in self._starts(topic, at_end).items()
            ]
        )

    def _starts(self, topic: str, at_end: bool) -> dict[int, int]:
        """By partition, the offset to begin at.

        Ends are looked up here: librdkafka's own OFFSET_END is wherever the end is when its thread
        gets there, so that a message sent after the reader was made could be missed.
        """
        if at_end:
            return watermarks_of(self._settings, self._consumer, topic)
        partitions = partitions_of(self._settings, self._consumer, topic)
        return dict.fromkeys(partitions, OFFSET_BEGINNING)

    def unread(self) -> int:
        """Count the offsets of the topics from here to their ends as they are now.

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
        """Wait up to `timeout` seconds for a message; return it and what else is at hand."""
        raws = poll_raw(self._consumer, max_messages, timeout)
        return [read_message(raw) for raw in raws if raw.error() is None]

    def close(self) -> None:
        """Give the connections back."""
        self._consumer.close()


class LagMonitor(GroupOffsets):
    """Says how far a consumer group is behind. Any thread may ask."""

    def ping(self, timeout: float) -> None:
        """Raise Unavailable unless Kafka answers within so many seconds, and has the topic."""
        partitions_of(self._settings, self._consumer, self._topic, timeout)

    def lag(self) -> int:
        """Count the messages of the topic that the group has not committed yet.

        Raises Unavailable if Kafka does not answer.
        """
        return sum(self.lags().values())

    def lags(self) -> dict[int, int]:
        """The same by partition."""
        committed = self.committed()
        # Asked for after the commits, so that the difference cannot be negative.
        ends = watermarks_of(self._settings, self._consumer, self._topic)
        return {partition: ends[partition] - offset for partition, offset in committed.items()}
