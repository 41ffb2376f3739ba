"""Kafka: the only package that imports confluent_kafka.

`ensure_topics` creates missing topics, `ClickConsumer` reads micro-batches and commits offsets,
`Publisher` produces and waits for acknowledgements, `TransactionalPublisher` also commits the
consumer's offsets. `TopicReader` and `LagMonitor` read topics and lags without joining a group,
`ItemCatalogue` follows the items topic, `read_items` reads it once.
`retained_offsets`, `offsets_since` and `read_offsets` read what a topic retains now, and end.
Errors that a retry may overcome become Unavailable; librdkafka reconnects by itself.
"""

from nextclick.shared.kafka.consumer import ClickConsumer
from nextclick.shared.kafka.item_catalogue import ItemCatalogue, read_items
from nextclick.shared.kafka.offsets import (
    GroupOffsets,
    offsets_since,
    read_offsets,
    retained_offsets,
)
from nextclick.shared.kafka.publisher import Publisher
from nextclick.shared.kafka.readers import LagMonitor, TopicReader
from nextclick.shared.kafka.topics import (
    ensure_topics,
    existing_topics,
    max_message_bytes,
    new_topic_config,
    topic_config,
)
from nextclick.shared.kafka.transactions import TransactionalPublisher

__all__ = [
    "ClickConsumer",
    "GroupOffsets",
    "ItemCatalogue",
    "LagMonitor",
    "Publisher",
    "TopicReader",
    "TransactionalPublisher",
    "ensure_topics",
    "existing_topics",
    "max_message_bytes",
    "new_topic_config",
    "offsets_since",
    "read_items",
    "read_offsets",
    "retained_offsets",
    "topic_config",
]
