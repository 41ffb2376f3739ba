"""What a topic holds from here to there, and how far a group has come, from outside the group."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from typing import TypeVar, cast

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from nextclick.shared.errors import Unavailable
from nextclick.shared.kafka.client import (
    MISCONFIGURED,
    MISCONFIGURED_WITHOUT_GROUP,
    REQUEST_SECONDS,
    SEE,
    WITHOUT_GROUP,
    MakeClient,
    Permission,
    client_config,
    failed,
    make_client,
    partitions_of,
    poll_raw,
    read_message,
    watermarks_of,
)
from nextclick.shared.messages import Message
from nextclick.shared.runtime.settings import KafkaSettings

_Answer = TypeVar("_Answer")

_COORDINATOR_MOVES = {
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
}
"""A group's first request on a new cluster, or one after a broker has died, may meet these."""

_FIRST_TRY_SECONDS = 1.0
"""So soon we look whether an answer that does not come was refused."""


def offsets_held(
    settings: KafkaSettings, topic: str, make_client: MakeClient = make_client
) -> dict[int, range]:
    """The offsets that each partition of a topic holds now.

    `make_client` makes the client. Raises Unavailable if Kafka does not answer or has no such
    topic.
    """
    consumer = make_client(Consumer, {**WITHOUT_GROUP, **client_config(settings)})
    try:
        return watermarks_of(settings, consumer, topic)
    finally:
        consumer.close()


def read_offsets(
    settings: KafkaSettings, topic: str, wanted: Mapping[int, range]
) -> Generator[Message, None, None]:
    """Yield what a topic holds at these offsets, each partition in its order, and end.

    Raises Unavailable if Kafka stops answering on the way.
    """
    left = {partition: offsets for partition, offsets in wanted.items() if offsets}
    consumer = make_client(
        Consumer,
        {
            **WITHOUT_GROUP,
            "auto.offset.reset": "earliest",
            # The last offsets may hold nothing to read: what a transaction leaves, for one.
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
                else:  # librdkafka goes on trying, and reports every time that it fails
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
    """What a consumer group has committed on a topic, from outside the group."""

    def __init__(self, settings: KafkaSettings, topic: str, group_id: str) -> None:
        self._settings = settings
        self._topic = topic
        self._group_id = group_id
        self._refusal: KafkaError | None = None
        """Why we do not hear from the coordinator, since we last did."""
        self._consumer = make_client(
            Consumer,
            {
                "group.id": group_id,
                # Else Kafka answers only when no transaction with offsets of the group is open:
                # while one of a worker that died is, nobody would know the lag.
                "isolation.level": "read_uncommitted",
                **client_config(settings),
            },
        )

    def committed(self) -> dict[int, int]:
        """The offset that comes next in each partition; 0 where none is committed.

        Raises Unavailable if Kafka does not answer, ConfigurationError if we may not ask.
        """
        places = [
            TopicPartition(self._topic, partition)
            for partition in partitions_of(self._settings, self._consumer, self._topic)
        ]
        committed = self._ask_coordinator(
            SEE, lambda timeout: self._consumer.committed(places, timeout=timeout)
        )
        return {c.partition: max(0, c.offset) for c in committed}

    def commit(self, offsets: Mapping[int, int]) -> None:
        """Commit the offset that comes next in these partitions, and wait for it.

        Raises Unavailable if Kafka does not answer, or if the group has members,
        ConfigurationError if we may not.
        """
        places = [TopicPartition(self._topic, p, offset) for p, offset in offsets.items()]
        self._ask_coordinator(
            "Read", lambda _: self._consumer.commit(offsets=places, asynchronous=False)
        )

    def close(self) -> None:
        """Give the connections back."""
        self._consumer.close()

    def _ask_coordinator(self, operation: str, request: Callable[[float], _Answer]) -> _Answer:
        """Do a request of the group's coordinator, again for as long as it is on the move.

        `request` is given its timeout; it needs this operation on the group and the topic. Raises
        Unavailable, or ConfigurationError for a missing permission, for any other error, or if the
        move takes over REQUEST_SECONDS.
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
                # Whoever may not know the coordinator hears only this; poll knows the reason.
                for message in poll_raw(self._consumer, 100, 0):
                    if (heard := message.error()) and heard.code() in MISCONFIGURED:
                        self._refusal = heard
            first = error.code() == KafkaError._TIMED_OUT and timeout == _FIRST_TRY_SECONDS
            goes_on = first or error.code() in _COORDINATOR_MOVES
            if self._refusal or not goes_on or time.monotonic() > deadline:
                raise failed(
                    self._settings,
                    self._refusal or error,
                    Permission(operation, "group", self._group_id),
                    Permission(operation, "topic", self._topic),
                )
            timeout = REQUEST_SECONDS
            time.sleep(0.1)
