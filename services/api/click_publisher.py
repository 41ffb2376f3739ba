"""Publishes clicks from HTTP requests and waits until Kafka acknowledges them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence

from nextclick.services.api.messages import ClickRequest
from nextclick.services.api.published_clicks import PublishedClicks
from nextclick.shared.errors import ConfigurationError, Unavailable
from nextclick.shared.kafka import Publisher, ensure_topics
from nextclick.shared.messages import Headers, of_user
from nextclick.shared.runtime.settings import KafkaSettings
from nextclick.shared.schemas import Click, uuid7

_KAFKA_SECONDS = 2.0
"""About the longest that a request waits for Kafka."""


def click_of(request: ClickRequest) -> Click:
    """The click of a request; a missing event id and timestamp are filled in."""
    now_ms = int(time.time() * 1000)
    return Click(
        event_id=request.event_id or uuid7(now_ms, secrets.token_bytes(10)),
        user_id=request.user_id,
        item_id=request.item_id,
        timestamp=now_ms if request.timestamp is None else request.timestamp,
        event_type=request.event_type,
    )


class ClickPublisher:
    """Publishes clicks in batches. Used by one thread, so a user's clicks keep their order."""

    def __init__(self, kafka: KafkaSettings, published: PublishedClicks) -> None:
        """Connects at the first click. Raises ConfigurationError for invalid client options.

        `published` is told of every click that Kafka has acknowledged.
        """
        self._published = published
        self._kafka = kafka
        self._publisher = Publisher(kafka)
        self._topic = kafka.clicks_topic
        self._connected = False
        self._unacknowledged = False

    def connect(self) -> None:
        """Create missing topics and connect; takes half a second. Raises Unavailable."""
        ensure_topics(self._kafka, [self._topic])
        self._publisher.connect()
        self._connected = True

    def publish(self, requests: list[tuple[Click, Headers]]) -> Sequence[Click]:
        """Publish clicks with headers, and wait until Kafka acknowledges them; returns the clicks.

        Raises Unavailable if Kafka does not acknowledge in time. The clicks are then still queued
        and may arrive later, so the sender should retry with the same event_id; until they are
        acknowledged, no other clicks are sent. Raises ConfigurationError if Kafka rejects them; the
        next call makes a new client, in case the cause has been fixed.
        """
        if not self._connected:
            self.connect()
        try:
            if self._unacknowledged:
                # If this raises, the new clicks have not been sent.
                self._publisher.wait_acknowledged(_KAFKA_SECONDS)
            self._unacknowledged = True
            self._publisher.send(of_user(self._topic, *request) for request in requests)
            self._publisher.wait_acknowledged(_KAFKA_SECONDS)
        except Unavailable:
            self._connected = False  # the topic may have been deleted
            raise
        except ConfigurationError:
            self._publisher = Publisher(self._kafka)
            self._connected = self._unacknowledged = False
            raise
        self._unacknowledged = False
        clicks = [click for click, _ in requests]
        self._published.add(clicks)
        return clicks
