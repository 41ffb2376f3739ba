"""Publishes messages to one topic from HTTP requests and waits until Kafka acknowledges them."""

from __future__ import annotations

from collections.abc import Iterable

from nextclick.shared.errors import ConfigurationError, Unavailable
from nextclick.shared.kafka import Publisher, ensure_topics
from nextclick.shared.messages import OutMessage
from nextclick.shared.runtime.settings import KafkaSettings

_KAFKA_SECONDS = 2.0
"""About the longest that a request waits for Kafka."""


class TopicPublisher:
    """Publishes in the order of the calls. Used by one thread."""

    def __init__(self, kafka: KafkaSettings, topic: str) -> None:
        """Connects at the first message. Raises ConfigurationError for invalid client options."""
        self._kafka = kafka
        self._topic = topic
        self._publisher = Publisher(kafka)
        self._connected = False
        self._unacknowledged = False

    def connect(self) -> None:
        """Create a missing topic and connect; takes half a second. Raises Unavailable."""
        ensure_topics(self._kafka, [self._topic])
        self._publisher.connect()
        self._connected = True

    def publish(self, messages: Iterable[OutMessage]) -> None:
        """Publish messages, and wait until Kafka acknowledges them.

        Raises Unavailable if Kafka does not acknowledge in time. The messages are then still queued
        and may arrive later; until they are acknowledged, no others are sent. Raises
        ConfigurationError if Kafka rejects them; the next call makes a new client, in case the
        cause has been fixed.
        """
        if not self._connected:
            self.connect()
        try:
            if self._unacknowledged:
                # If this raises, the new messages have not been sent.
                self._publisher.wait_acknowledged(_KAFKA_SECONDS)
            self._unacknowledged = True
            self._publisher.send(messages)
            self._publisher.wait_acknowledged(_KAFKA_SECONDS)
        except Unavailable:
            self._connected = False  # the topic may have been deleted
            raise
        except ConfigurationError:
            self._publisher = Publisher(self._kafka)
            self._connected = self._unacknowledged = False
            raise
        self._unacknowledged = False
