"""Publishes clicks from HTTP requests and waits until Kafka acknowledges them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence

from nextclick.services.api.messages import ClickRequest
from nextclick.services.api.published_clicks import PublishedClicks
from nextclick.services.api.topic_publisher import TopicPublisher
from nextclick.shared.messages import Headers, of_user
from nextclick.shared.runtime.settings import KafkaSettings
from nextclick.shared.schemas import Click, uuid7


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
        self._topic = kafka.clicks_topic
        self._publisher = TopicPublisher(kafka, self._topic)
        self.connect = self._publisher.connect

    def publish(self, requests: list[tuple[Click, Headers]]) -> Sequence[Click]:
        """Publish clicks with headers, and wait until Kafka acknowledges them; returns the clicks.

        Raises as TopicPublisher.publish; a sender should retry with the same event_id.
        """
        self._publisher.publish(of_user(self._topic, *request) for request in requests)
        clicks = [click for click, _ in requests]
        self._published.add(clicks)
        return clicks
