"""Clicks in: from an HTTP request to the clicks topic. An acknowledged click is on the topic."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence

from nextclick.services.api.messages import ClickRequest
from nextclick.shared.errors import ConfigurationError, Unavailable
from nextclick.shared.kafka import Publisher, ensure_topics
from nextclick.shared.messages import of_user
from nextclick.shared.runtime.settings import KafkaSettings
from nextclick.shared.schemas import Click, uuid7

_KAFKA_SECONDS = 2.0
"""Whoever sends a click waits about so long for Kafka at most."""


def click_of(request: ClickRequest) -> Click:
    """Fill in what the request left open."""
    now_ms = int(time.time() * 1000)
    return Click(
        event_id=request.event_id or uuid7(now_ms, secrets.token_bytes(10)),
        user_id=request.user_id,
        item_id=request.item_id,
        timestamp=now_ms if request.timestamp is None else request.timestamp,
        event_type=request.event_type,
    )


class Intake:
    """Publishes clicks in batches. Used by one thread, so a user's clicks keep their order."""

    def __init__(self, kafka: KafkaSettings) -> None:
        """Raises ConfigurationError for what no client takes; it connects at the first click."""
        self._kafka = kafka
        self._publisher = Publisher(kafka)
        self._topic = kafka.clicks_topic
        self._connected = False
        self._under_way = False

    def connect(self) -> None:
        """Be ready: takes half a second once. Raises Unavailable."""
        ensure_topics(self._kafka, [self._topic])
        self._publisher.connect()
        self._connected = True

    def publish(self, clicks: list[Click]) -> Sequence[Click]:
        """Return once Kafka has them.

        Raises Unavailable if it has not within some seconds. Then they are still under way and may
        yet arrive: sending them again with the same event_id is right. As long as they are, no
        other clicks are sent. Raises ConfigurationError if Kafka will not take them; after that
        a new client tries, because somebody may have put it right.
        """
        if not self._connected:
            self.connect()
        try:
            if self._under_way:
                self._publisher.wait_acknowledged(_KAFKA_SECONDS)  # these were not even sent
            self._under_way = True
            self._publisher.send(of_user(self._topic, click) for click in clicks)
            self._publisher.wait_acknowledged(_KAFKA_SECONDS)
        except Unavailable:
            self._connected = False  # the topic may be gone
            raise
        except ConfigurationError:
            self._publisher = Publisher(self._kafka)
            self._connected = self._under_way = False
            raise
        self._under_way = False
        return clicks
