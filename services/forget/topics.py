"""What Kafka holds of a user, and until when."""

from __future__ import annotations

import time
from collections.abc import Iterable

from nextclick.services.dlq.dead_letters import user_ids
from nextclick.services.forget.certificate import Topic, iso
from nextclick.shared.kafka import (
    GroupOffsets,
    existing_topics,
    read_offsets,
    retained_offsets,
    topic_config,
)
from nextclick.shared.messages import Message
from nextclick.shared.runtime.settings import KafkaSettings

_CHECK_SECONDS = 300
"""So often brokers look for what to remove (log.retention.check.interval.ms)."""


def await_group(
    kafka: KafkaSettings, group_id: str, held: dict[int, range], wait_seconds: float
) -> int:
    """Wait until a group has committed these offsets of the clicks topic.

    Returns how many it has not, after `wait_seconds`. Raises Unavailable, or ConfigurationError for
    a missing permission.
    """
    deadline = time.monotonic() + wait_seconds
    group = GroupOffsets(kafka, kafka.clicks_topic, group_id)
    try:
        while True:
            committed = group.committed()
            behind = sum(
                len(range(max(offsets.start, committed.get(p, 0)), offsets.stop))
                for p, offsets in held.items()
            )
            if not behind or time.monotonic() > deadline:
                return behind
            time.sleep(0.2)
    finally:
        group.close()


def look(
    kafka: KafkaSettings, user_id: str, requested_at: float, *, count_messages: bool = False
) -> list[Topic]:
    """What the clicks, the recommendations and the dead letters hold of a user, and until when.

    requested_at: seconds since the epoch. Only dead letters are counted, unless `count_messages`,
    which reads all topics from their beginning. Raises as `await_group`.
    """
    names = [kafka.clicks_topic, *kafka.answer_topics, kafka.dlq_topic]
    existing = existing_topics(kafka, names)
    found = []
    for name in names:
        if name not in existing:
            found.append(Topic(name, exists=False))
            continue
        config = topic_config(kafka, name)
        retention_ms = int(config["retention.ms"])
        messages, newest, positions = None, requested_at, []
        if count_messages or name == kafka.dlq_topic:
            theirs = _messages_of(kafka, name, user_id)
            messages = len(theirs)
            positions = [f"{p}/{offset}" for p, offset, _ in theirs]
            newest = max((at / 1000 for *_, at in theirs if at is not None), default=requested_at)
        expires = "delete" in config["cleanup.policy"] and retention_ms >= 0 and messages != 0
        # A message stays as long as its segment is written to, and then as long as the retention.
        last = newest + (int(config["segment.ms"]) + retention_ms) / 1000 + _CHECK_SECONDS
        found.append(
            Topic(
                name,
                exists=True,
                messages=messages,
                positions=tuple(positions) if name == kafka.dlq_topic else (),
                cleanup_policy=config["cleanup.policy"],
                retention_ms=retention_ms,
                gone_by=iso(last) if expires else None,
            )
        )
    return found


def _messages_of(
    kafka: KafkaSettings, topic: str, user_id: str
) -> list[tuple[int, int, int | None]]:
    messages: Iterable[Message] = read_offsets(kafka, topic, retained_offsets(kafka, topic))
    return [(m.partition, m.offset, m.timestamp_ms) for m in messages if user_id in user_ids(m)]
