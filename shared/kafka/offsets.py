"""Reads ranges of offsets of a topic, and the committed offsets of a group, as a non-member."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from typing import TypeVar, cast

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from nextclick.shared.errors import Unavailable
from nextclick.shared.kafka.client import (
    DESCRIBE,
    MISCONFIGURED,
    MISCONFIGURED_WITHOUT_GROUP,
    REQUEST_SECONDS,
    WITHOUT_GROUP,
    MakeClient,
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
from nextclick.shared.messages import Message
from nextclick.shared.runtime.settings import KafkaSettings

_Answer = TypeVar("_Answer")

_COORDINATOR_MOVES = {
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
}
"""Errors of the first request of a group on a new cluster, or after the death of a broker."""

_FIRST_TRY_SECONDS = 1.0
"""Time-out of the first try, after which `poll` is asked whether the request was refused."""


def retained_offsets(
    settings: KafkaSettings, topic: str, make_client: MakeClient = make_client
) -> dict[int, range]:
    """Partition of a topic → offsets that it retains now.

    `make_client` makes the client. Raises Unavailable if Kafka does not answer or has no such
    topic.
    """
    consumer = make_client(Consumer, {**WITHOUT_GROUP, **client_config(settings)})
    try:
        return watermarks_of(settings, consumer, topic)
    finally:
        consumer.close()


def offsets_since(settings: KafkaSettings, topic: str, time_ms: int) -> dict[int, range]:
    """Partition of a topic → offsets that it retains now, from this time of Kafka's on.

    time_ms: epoch milliseconds. Raises Unavailable if Kafka does not answer or has no such topic.
    """
    consumer = make_client(Consumer, {**WITHOUT_GROUP, **client_config(settings)})
    try:
        retained = watermarks_of(settings, consumer, topic)
        asked = [TopicPartition(topic, partition, time_ms) for partition in retained]
        found = consumer.offsets_for_times(asked, timeout=REQUEST_SECONDS)
    except KafkaException as error:
        raise unavailable(settings, error) from None
    finally:
        consumer.close()
    # A negative offset is the end: no message is that new.
    first = {place.partition: place.offset for place in found if place.offset >= 0}
    return {p: range(first.get(p, held.stop), held.stop) for p, held in retained.items()}


def read_offsets(
    settings: KafkaSettings, topic: str, wanted: Mapping[int, range]
) -> Generator[Message, None, None]:
    """Yield the messages of a topic at these offsets, those of each partition in order.

    Raises Unavailable if Kafka stops answering.
    """
    left = {partition: offsets for partition, offsets in wanted.items() if offsets}
    consumer = make_client(
        Consumer,
        {
            **WITHOUT_GROUP,
            "auto.offset.reset": "earliest",
            # The last offsets may hold no message, for example only a transaction marker.
            "enable.partition.eof": True,
            **client_config(settings),
        },
    )
    try:
        consumer.assign([TopicPartition(topic, p, offsets.start) for p, offsets in left.items()])
        deadline = time.monotonic() + REQUEST_SECONDS
        while left:
            for raw in poll_raw(consumer, 100, 0.5):
                error = raw.error()
                if error is None:
                    message = read_message(raw)
                    offsets = left.get(message.partition, range(0))
                    if message.offset in offsets:
                        yield message
                    if message.offset + 1 >= offsets.stop:
                        left.pop(message.partition, None)
                elif error.code() == KafkaError._PARTITION_EOF:
                    left.pop(cast(int, raw.partition()), None)
                elif error.fatal() or error.code() in MISCONFIGURED_WITHOUT_GROUP:
                    raise failed(settings, error, Permission("Read", "topic", topic))
                else:  # librdkafka retries, and reports each failure
                    continue
                deadline = time.monotonic() + REQUEST_SECONDS
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"Kafka at {settings.bootstrap_servers}, topic {topic}: nothing came "
                    f"for {REQUEST_SECONDS:g} s"
                )
    finally:
        consumer.close()


class GroupOffsets:
    """The committed offsets of a consumer group on a topic; does not join the group."""

    def __init__(self, settings: KafkaSettings, topic: str, group_id: str) -> None:
        self._settings = settings
        self._topic = topic
        self._group_id = group_id
        self._refusal: KafkaError | None = None
        """Why the coordinator refuses requests, since the last answer."""
        self._consumer = make_client(
            Consumer,
            {
                "group.id": group_id,
                # Else Kafka does not answer while a transaction with offsets of the group is open,
                # so the lag would be unknown while one of a dead worker is.
                "isolation.level": "read_uncommitted",
                **client_config(settings),
            },
        )
        self._login = Login(settings, self._consumer)

    def committed(self) -> dict[int, int]:
        """Partition → committed offset; 0 if none is committed.

        Raises Unavailable if Kafka does not answer, ConfigurationError for a missing permission.
        """
        self._login.renew()
        places = [
            TopicPartition(self._topic, partition)
            for partition in partitions_of(self._settings, self._consumer, self._topic)
        ]
        committed = self._ask_coordinator(
            DESCRIBE, lambda timeout: self._consumer.committed(places, timeout=timeout)
        )
        return {c.partition: max(0, c.offset) for c in committed}

    def commit(self, offsets: Mapping[int, int]) -> None:
        """Commit offsets (partition → next offset), and wait until they are committed.

        Raises Unavailable if Kafka does not answer or the group has members, ConfigurationError
        for a missing permission.
        """
        places = [TopicPartition(self._topic, p, offset) for p, offset in offsets.items()]
        self._ask_coordinator(
            "Read", lambda _: self._consumer.commit(offsets=places, asynchronous=False)
        )

    def close(self) -> None:
        """Close the connections."""
        self._consumer.close()

    def _ask_coordinator(self, operation: str, request: Callable[[float], _Answer]) -> _Answer:
        """Send a request to the group's coordinator; retry while the coordinator moves.

        request: a function of the timeout, which needs `operation` on the group and the topic.
        Raises ConfigurationError for a missing permission, Unavailable for any other error, and if
        the move takes more than REQUEST_SECONDS.
        """
        deadline = time.monotonic() + REQUEST_SECONDS
        timeout = _FIRST_TRY_SECONDS
        while True:
            try:
                answer = request(timeout)
            except KafkaException as raised:
                error: KafkaError = raised.args[0]
            else:
                self._refusal = None
                return answer
            if error.code() == KafkaError._TIMED_OUT:
                # Without a permission on the group the request times out; poll has the reason.
                for message in poll_raw(self._consumer, 100, 0):
                    if (cause := message.error()) and cause.code() in MISCONFIGURED:
                        self._refusal = cause
            first = error.code() == KafkaError._TIMED_OUT and timeout == _FIRST_TRY_SECONDS
            retry = first or error.code() in _COORDINATOR_MOVES
            if self._refusal or not retry or time.monotonic() > deadline:
                raise failed(
                    self._settings,
                    self._refusal or error,
                    Permission(operation, "group", self._group_id),
                    Permission(operation, "topic", self._topic),
                )
            timeout = REQUEST_SECONDS
            time.sleep(0.1)
