"""Kafka: the only module that imports confluent_kafka.

`ensure_topics` creates what is missing, `ClickConsumer` reads micro-batches and commits,
`Publisher` produces and waits for acknowledgements, `TopicReader` looks on from outside any
group. Errors that time heals become Unavailable; librdkafka reconnects by itself meanwhile.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka import Message as RawMessage
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from shared.errors import CommitRefused, ConfigurationError, Unavailable
from shared.messages import Message, OutMessage
from shared.settings import KafkaSettings

log = logging.getLogger(__name__)

REQUEST_SECONDS = 10.0
"""How long one request to the cluster may take before it counts as unavailable."""

SESSION_TIMEOUT_MS = 10_000
"""Without a heartbeat for so long a member counts as dead and others take its partitions."""

_PROMPT = {
    # With anything unread at hand, ask for more after 2 ms, not at once: the pieces get larger,
    # the requests fewer, and what is read ahead stays within a few pieces.
    "queued.min.messages": 1,
    "fetch.queue.backoff.ms": 2,
}
_IN_NO_HURRY = {
    # The same with half a second: it saves both sides nearly all requests.
    "queued.min.messages": 1,
    "fetch.queue.backoff.ms": 500,
    "fetch.min.bytes": 65_536,
    "max.poll.interval.ms": 86_400_000,
}


def ensure_topics(settings: KafkaSettings, topics: Iterable[str]) -> list[str]:
    """Create the topics that are missing and return their names; existing ones stay as they are.

    Raises Unavailable if Kafka does not answer, ConfigurationError if it refuses.
    """
    admin = _client(AdminClient, _client_config(settings))
    try:
        existing = admin.list_topics(timeout=REQUEST_SECONDS).topics
    except KafkaException as error:
        raise _away(settings, error) from None
    new = [
        NewTopic(
            topic,
            num_partitions=settings.partitions,
            replication_factor=settings.replication_factor,
            config={"retention.ms": str(int(settings.retention_hours * 3_600_000))},
        )
        for topic in topics
        if topic not in existing
    ]
    created = []
    for topic, future in (admin.create_topics(new) if new else {}).items():
        try:
            future.result()
            created.append(topic)
        except KafkaException as error:
            code = error.args[0].code()
            if code == KafkaError.TOPIC_ALREADY_EXISTS:  # another process was faster
                continue
            if error.args[0].retriable() or code == KafkaError._TIMED_OUT:
                raise _away(settings, error) from None
            raise ConfigurationError(
                f"Kafka refused to create the topic {topic}: {error.args[0].str()}; "
                "check NEXTCLICK_KAFKA__PARTITIONS and __REPLICATION_FACTOR, or create it yourself"
            ) from None
    return created


class ClickConsumer:
    """A member of a consumer group that reads one topic in micro-batches."""

    def __init__(
        self,
        settings: KafkaSettings,
        topic: str,
        group_id: str,
        *,
        seek: Callable[[Sequence[int]], dict[int, int]] | None = None,
        instance_id: str = "",
        in_no_hurry: bool = False,
    ) -> None:
        """Join the group.

        `seek`, given the partitions just assigned, may name offsets to start from instead of
        the committed ones.
        With an `instance_id` the membership is static (KIP-345): whoever joins under it next,
        say after a crash, takes the partitions over at once; without one the group waits
        SESSION_TIMEOUT_MS for the dead.
        `in_no_hurry` is for a reader to whom half a second is nothing, and who may not poll for
        hours: it reads in large pieces.
        """
        self._settings = settings
        self._topic = topic
        self._seek = seek
        self._given_up: set[int] = set()
        self._before_giving_up: Callable[[], None] = _nothing
        self.assignment: set[int] = set()
        """Partitions that are ours now."""
        self.read_to_end: set[int] = set()
        """Those of them whose end was reached since; kept up to date for who is in no hurry."""
        self._consumer = _client(
            Consumer,
            {
                "group.id": group_id,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "enable.partition.eof": in_no_hurry,
                "partition.assignment.strategy": "cooperative-sticky",
                "session.timeout.ms": SESSION_TIMEOUT_MS,
                **({"group.instance.id": instance_id} if instance_id else {}),
                **(_IN_NO_HURRY if in_no_hurry else _PROMPT),
                **_client_config(settings),
            },
        )
        self._consumer.subscribe(
            [topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )

    def poll(
        self,
        max_messages: int,
        timeout: float,
        *,
        before_giving_up: Callable[[], None] | None = None,
    ) -> list[Message]:
        """Wait up to `timeout` seconds for a message; return it and what else is at hand.

        One click is never held back to fill a batch, while under load batches fill by
        themselves. Messages of partitions that were revoked meanwhile are left out: their new
        owner reads them. Rebalances happen inside this call only; `before_giving_up` is called
        before partitions go.
        """
        self._given_up.clear()
        self._before_giving_up = before_giving_up or _nothing
        return self._kept(_poll(self._consumer, max_messages, timeout))

    def commit(self, messages: Sequence[Message]) -> None:
        """Commit the offsets after these messages and wait for it.

        Raises CommitRefused if the group has moved on: whoever the partitions belong to now, which
        may be us again, starts from the last committed offset. Raises Unavailable if Kafka does not
        answer.
        """
        after: dict[int, int] = {}
        for message in messages:
            after[message.partition] = max(after.get(message.partition, 0), message.offset + 1)
        offsets = [TopicPartition(self._topic, p, offset) for p, offset in after.items()]
        try:
            self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            if error.args[0].code() in _NOT_OURS_ANY_MORE:
                raise CommitRefused(f"offsets not committed: {error.args[0].str()}") from None
            raise _away(self._settings, error) from None

    def rewind(self, messages: Sequence[Message]) -> None:
        """Read these messages again, and all after them, as far as their partitions are ours."""
        first: dict[int, int] = {}
        for message in messages:
            before = first.get(message.partition, message.offset)
            first[message.partition] = min(before, message.offset)
        for partition, offset in first.items():
            # Not ours, or about to be given up: then its owner reads from the committed offset.
            with contextlib.suppress(KafkaException):
                self._consumer.seek(TopicPartition(self._topic, partition, offset))

    def high_watermarks(self) -> dict[int, int]:
        """The end of each partition of the topic: the offset that comes next."""
        return _watermarks(self._settings, self._consumer, self._topic)

    def close(self) -> None:
        """Leave the group at once, so that others take over without waiting for a timeout."""
        self._consumer.close()

    def _kept(self, raws: Sequence[RawMessage]) -> list[Message]:
        messages = []
        for raw in raws:
            error, partition = raw.error(), raw.partition()
            if error is None:
                if partition not in self._given_up:
                    messages.append(_message(raw))
            elif error.code() == KafkaError._PARTITION_EOF and partition is not None:
                self.read_to_end.add(partition)
            else:
                self._complain(error)
        return messages

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        ours = {p.partition for p in partitions}
        self.assignment |= ours
        self._given_up -= ours  # given up and got back within one poll: what follows is ours
        log.info("assigned partitions %s", sorted(ours))
        if self._seek is not None:
            starts = self._seek([p.partition for p in partitions])
            for partition in partitions:
                partition.offset = starts.get(partition.partition, partition.offset)
            consumer.incremental_assign(partitions)

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._before_giving_up()
        self._on_lost(consumer, partitions)

    def _on_lost(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        # The group has gone on without us: there is nothing left to finish, and a commit would not
        # even be answered before this returns.
        gone = {p.partition for p in partitions}
        self.assignment -= gone
        self.read_to_end -= gone
        self._given_up |= gone
        log.info("gave up partitions %s", sorted(gone))

    def _complain(self, error: KafkaError) -> None:
        if error.fatal() or error.code() in _MISCONFIGURED:
            raise ConfigurationError(
                f"Kafka, topic {self._topic}: {error.str()}; check NEXTCLICK_KAFKA__* settings"
            )
        log.warning("Kafka, topic %s: %s", self._topic, error.str())


class Publisher:
    """Produces messages and knows when the broker has them all."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._failed: KafkaError | None = None
        self._connected = False
        self._producer = _client(
            Producer,
            {
                "enable.idempotence": True,  # implies acks=all and order per partition
                "linger.ms": 0,
                "compression.type": "zstd",  # JSON shrinks to half, even message by message
                "message.timeout.ms": 0,  # a message waits for Kafka to come back, for ever
                **_client_config(settings),
            },
        )

    def connect(self) -> None:
        """Be ready to send at once; without it the first messages wait about half a second.

        librdkafka asks the broker for its producer id on a timer of 500 ms after connecting,
        and lets nobody see whether it has it.

        Raises Unavailable if Kafka does not answer.
        """
        if self._connected:
            return
        try:
            self._producer.list_topics(timeout=REQUEST_SECONDS)
        except KafkaException as error:
            raise _away(self._settings, error) from None
        time.sleep(0.6)
        self._connected = True

    def send(self, messages: Iterable[OutMessage]) -> None:
        """Hand messages to the client; it sends them in the background."""
        for message in messages:
            while True:
                try:
                    self._producer.produce(
                        message.topic,
                        message.value,
                        message.key,
                        headers=list(message.headers) or None,
                        on_delivery=self._delivered,
                    )
                    break
                except BufferError:  # the client's queue is full: let it drain
                    self._producer.poll(0.1)
                    self._raise_failure()
        self._producer.poll(0)

    def wait_acknowledged(self, timeout: float = REQUEST_SECONDS) -> None:
        """Return when the broker has acknowledged everything sent.

        Raises Unavailable if some are still outstanding after `timeout` seconds; they stay
        queued, so calling again goes on waiting. Raises ConfigurationError if Kafka will not
        take a message at all.
        """
        outstanding = self._producer.flush(timeout)
        self._raise_failure()
        if outstanding:
            raise Unavailable(
                f"Kafka at {self._settings.bootstrap_servers}: {outstanding} messages not "
                f"acknowledged within {timeout:g} s"
            )

    def _delivered(self, error: KafkaError | None, _: RawMessage) -> None:
        if error is not None:
            self._failed = error

    def _raise_failure(self) -> None:
        if self._failed is not None:
            # Waiting does not heal this: messages do not expire, so it was refused for good.
            raise ConfigurationError(
                f"Kafka at {self._settings.bootstrap_servers} refused a message: "
                f"{self._failed.str()}; check the topic's settings and permissions"
            )


class TopicReader:
    """Reads whole topics without joining a group: it commits nothing and disturbs nobody."""

    def __init__(
        self, settings: KafkaSettings, topics: Sequence[str], *, in_no_hurry: bool = False
    ) -> None:
        """Start at the beginning of the topics."""
        self._settings = settings
        self._consumer = _client(
            Consumer,
            {
                # librdkafka wants a name even of a consumer that never joins the group.
                "group.id": "nextclick-reader",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                **(_IN_NO_HURRY if in_no_hurry else _PROMPT),
                **_client_config(settings),
            },
        )
        self._consumer.assign(
            [
                TopicPartition(topic, partition, OFFSET_BEGINNING)
                for topic in topics
                for partition in _partitions(settings, self._consumer, topic)
            ]
        )

    def unread(self) -> int:
        """Count the offsets of the topics from here to their ends as they are now.

        Raises Unavailable if Kafka does not answer.
        """
        try:
            ahead = 0
            for partition in self._consumer.position(self._consumer.assignment()):
                low, high = self._consumer.get_watermark_offsets(partition, timeout=REQUEST_SECONDS)
                ahead += high - max(low, partition.offset)  # a negative offset: nothing read yet
            return ahead
        except KafkaException as error:
            raise _away(self._settings, error) from None

    def poll(self, max_messages: int = 1000, timeout: float = 0.5) -> list[Message]:
        """Wait up to `timeout` seconds for a message; return it and what else is at hand."""
        raws = _poll(self._consumer, max_messages, timeout)
        return [_message(raw) for raw in raws if raw.error() is None]

    def close(self) -> None:
        """Give the connections back."""
        self._consumer.close()


class LagMonitor:
    """Says how far a consumer group is behind, from outside the group."""

    def __init__(self, settings: KafkaSettings, topic: str, group_id: str) -> None:
        self._settings = settings
        self._topic = topic
        self._consumer = _client(Consumer, {"group.id": group_id, **_client_config(settings)})

    def lag(self) -> int:
        """Count the messages of the topic that the group has not committed yet.

        Raises Unavailable if Kafka does not answer.
        """
        try:
            committed = self._consumer.committed(
                [
                    TopicPartition(self._topic, partition)
                    for partition in _partitions(self._settings, self._consumer, self._topic)
                ],
                timeout=REQUEST_SECONDS,
            )
        except KafkaException as error:
            raise _away(self._settings, error) from None
        # Asked for after the commits, so that the difference cannot be negative.
        ends = _watermarks(self._settings, self._consumer, self._topic)
        return sum(ends[c.partition] - max(0, c.offset) for c in committed)

    def close(self) -> None:
        """Give the connections back."""
        self._consumer.close()


def _nothing() -> None:
    """Do nothing."""


_NOT_OURS_ANY_MORE = {
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError._ASSIGNMENT_LOST,
    KafkaError._STATE,
}
_MISCONFIGURED = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError._AUTHENTICATION,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.MSG_SIZE_TOO_LARGE,
}


def _client_config(settings: KafkaSettings) -> dict[str, Any]:
    return {
        "bootstrap.servers": settings.bootstrap_servers,
        "client.id": "nextclick",
        # librdkafka's own lines go to our log instead of raw to stderr.
        "logger": logging.getLogger("librdkafka"),
        "log.connection.close": False,
        **settings.client_config,
    }


def _client(kind: Callable[[dict[str, Any]], Any], config: dict[str, Any]) -> Any:
    """Make a librdkafka client, turning a refused configuration into one clear line."""
    try:
        return kind(config)
    except (KafkaException, ValueError, TypeError) as error:
        cause = error.args[0].str() if isinstance(error, KafkaException) else str(error)
        raise ConfigurationError(
            f"the Kafka client refuses its configuration ({cause}); "
            "check NEXTCLICK_KAFKA__BOOTSTRAP_SERVERS and NEXTCLICK_KAFKA__CLIENT_CONFIG"
        ) from None


def _poll(consumer: Consumer, max_messages: int, timeout: float) -> list[RawMessage]:
    first = consumer.poll(timeout)
    if first is None:
        return []
    # consume() with a timeout would wait until the batch is full; 0 takes what is there.
    rest = consumer.consume(max_messages - 1, 0) if max_messages > 1 else []
    return [first, *rest]


def _partitions(settings: KafkaSettings, consumer: Consumer, topic: str) -> list[int]:
    try:
        metadata = consumer.list_topics(topic, timeout=REQUEST_SECONDS).topics[topic]
    except KafkaException as error:
        raise _away(settings, error) from None
    if metadata.error is not None:
        raise Unavailable(f"Kafka, topic {topic}: {metadata.error.str()}")
    return sorted(metadata.partitions)


def _watermarks(settings: KafkaSettings, consumer: Consumer, topic: str) -> dict[int, int]:
    try:
        return {
            partition: consumer.get_watermark_offsets(
                TopicPartition(topic, partition), timeout=REQUEST_SECONDS
            )[1]
            for partition in _partitions(settings, consumer, topic)
        }
    except KafkaException as error:
        raise _away(settings, error) from None


def _message(raw: RawMessage) -> Message:
    topic, partition, offset = raw.topic(), raw.partition(), raw.offset()
    assert topic is not None
    assert partition is not None
    assert offset is not None
    headers = cast(list[tuple[str, bytes]], raw.headers() or [])
    return Message(topic, partition, offset, raw.key(), raw.value(), tuple(headers))


def _away(settings: KafkaSettings, error: KafkaException) -> Unavailable:
    return Unavailable(
        f"Kafka at {settings.bootstrap_servers} (NEXTCLICK_KAFKA__BOOTSTRAP_SERVERS): "
        f"{error.args[0].str()}"
    )
