"""Sends what is said about items to their topic."""

from __future__ import annotations

from collections.abc import Mapping

from nextclick.shared.items import item_message
from nextclick.shared.kafka import Publisher, ensure_topics
from nextclick.shared.runtime.settings import KafkaSettings
from nextclick.shared.schemas import Item

_AT_ONCE = 1000


def publish(kafka: KafkaSettings, said: Mapping[str, Item | None]) -> None:
    """Publish the items (None: retired), and wait until Kafka has them all.

    Raises BadItem for an id that is none, Unavailable, or ConfigurationError for a missing
    permission.
    """
    messages = [item_message(kafka.items_topic, *one) for one in said.items()]
    ensure_topics(kafka, [kafka.items_topic])
    publisher = Publisher(kafka)
    for first in range(0, len(messages), _AT_ONCE):
        publisher.send(messages[first : first + _AT_ONCE])
        publisher.wait_acknowledged()
