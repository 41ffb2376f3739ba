"""Kafka: the only package that imports confluent_kafka.

`ensure_topics` creates what is missing, `ClickConsumer` reads micro-batches and commits,
`Publisher` produces and waits for acknowledgements, `TransactionalPublisher` commits the
consumer's offsets with it, `TopicReader` and `LagMonitor` look on from outside any group,
`offsets_held` and `read_offsets` read what a topic holds now and then end. Errors that time heals
become Unavailable; librdkafka reconnects by itself meanwhile.
"""

from nextclick.shared.kafka.consumer import ClickConsumer
from nextclick.shared.kafka.offsets import GroupOffsets, offsets_held, read_offsets
from nextclick.shared.kafka.publisher import Publisher
from nextclick.shared.kafka.readers import LagMonitor, TopicReader
from nextclick.shared.kafka.topics import ensure_topics, max_message_bytes
from nextclick.shared.kafka.transactions import TransactionalPublisher

__all__ = [
    "ClickConsumer",
    "GroupOffsets",
    "LagMonitor",
    "Publisher",
    "TopicReader",
    "TransactionalPublisher",
    "ensure_topics",
    "max_message_bytes",
    "offsets_held",
    "read_offsets",
]
