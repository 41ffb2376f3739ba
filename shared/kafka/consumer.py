"""A member of a consumer group."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as RawMessage

from shared.errors import CommitRefused, ConfigurationError, Fenced
from shared.kafka.client import (
    IN_NO_HURRY,
    MISCONFIGURED,
    PROMPT,
    client_config,
    make_client,
    poll_raw,
    read_message,
    unavailable,
    watermarks_of,
)
from shared.messages import Message
from shared.settings import KafkaSettings

log = logging.getLogger(__name__)

SESSION_TIMEOUT_MS = 10_000
"""Without a heartbeat for so long a member counts as dead and others take its partitions."""

_NOT_OURS_ANY_MORE = {
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError._ASSIGNMENT_LOST,
    KafkaError._STATE,
}


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
        in_transactions: bool = False,
    ) -> None:
        """Prepare the client; the group is joined with the first poll.

        `seek`, given the partitions just assigned, may name offsets to start from instead of
        the committed ones.
        With an `instance_id` the membership is static (KIP-345): whoever joins under it next,
        say after a crash, takes the partitions over at once; without one the group waits
        SESSION_TIMEOUT_MS for the dead.
        `in_no_hurry` is for a reader to whom half a second is nothing, and who may not poll for
        hours: it reads in large pieces.
        `in_transactions`: a producer commits the offsets.
        """
        self._settings = settings
        self.topic = topic
        self._seek = seek
        self._in_transactions = in_transactions
        self._subscribed = False
        self._given_up: set[int] = set()
        self._before_giving_up: Callable[[], None] = _nothing
        self.assignment: set[int] = set()
        """Partitions that are ours now."""
        self.joined = False
        """The group has told us which they are; none, if there are more members than partitions."""
        self.read_to_end: set[int] = set()
        """Those of them whose end was reached since; kept up to date for who is in no hurry."""
        config = {
            "group.id": group_id,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "enable.partition.eof": in_no_hurry,
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": SESSION_TIMEOUT_MS,
            **({"group.instance.id": instance_id} if instance_id else {}),
            **(IN_NO_HURRY if in_no_hurry else PROMPT),
            **client_config(settings),
        }
        self._step_by_step = "cooperative" in str(config["partition.assignment.strategy"])
        self._consumer = make_client(Consumer, config)

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
        if not self._subscribed:
            self._consumer.subscribe(
                [self.topic],
                on_assign=self._on_assign,
                on_revoke=self._on_revoke,
                on_lost=self._on_lost,
            )
            self._subscribed = True
        self._given_up.clear()
        self._before_giving_up = before_giving_up or _nothing
        return self._kept(poll_raw(self._consumer, max_messages, timeout))

    def commit(self, messages: Sequence[Message]) -> None:
        """Commit the offsets after these messages and wait for it.

        Raises CommitRefused if the group has moved on: whoever the partitions belong to now, which
        may be us again, starts from the last committed offset. Raises Fenced if somebody else has
        joined under our `instance_id`, Unavailable if Kafka does not answer.
        """
        try:
            self._consumer.commit(offsets=offsets_after(self.topic, messages), asynchronous=False)
        except KafkaException as error:
            self._raise_if_fenced(error.args[0])
            if error.args[0].code() in _NOT_OURS_ANY_MORE:
                raise CommitRefused(f"offsets not committed: {error.args[0].str()}") from None
            raise unavailable(self._settings, error) from None

    def group_metadata(self) -> Any:
        """What a transaction shows the group: it takes no offsets from former members (KIP-447)."""
        return self._consumer.consumer_group_metadata()

    def rewind(self, messages: Sequence[Message]) -> None:
        """Read these messages again, and all after them, as far as their partitions are ours."""
        first: dict[int, int] = {}
        for message in messages:
            before = first.get(message.partition, message.offset)
            first[message.partition] = min(before, message.offset)
        for partition, offset in first.items():
            # Not ours, or about to be given up: then its owner reads from the committed offset.
            with contextlib.suppress(KafkaException):
                self._consumer.seek(TopicPartition(self.topic, partition, offset))

    def high_watermarks(self) -> dict[int, int]:
        """The end of each partition of the topic: the offset that comes next."""
        return watermarks_of(self._settings, self._consumer, self.topic)

    def close(self) -> None:
        """Leave the group at once, so that others take over without waiting for a timeout."""
        self._consumer.close()

    def _kept(self, raws: Sequence[RawMessage]) -> list[Message]:
        messages = []
        for raw in raws:
            error, partition = raw.error(), raw.partition()
            if error is None:
                if partition not in self._given_up:
                    messages.append(read_message(raw))
            elif error.code() == KafkaError._PARTITION_EOF and partition is not None:
                self.read_to_end.add(partition)
            else:
                self._complain(error)
        return messages

    @staticmethod
    def _raise_if_fenced(error: KafkaError) -> None:
        if error.code() in (KafkaError.FENCED_INSTANCE_ID, KafkaError._FENCED):
            raise Fenced(
                f"somebody else has joined the group in our name ({error.str()}): two processes "
                "with one INSTANCE_ID, or one that was thought dead"
            )

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        ours = {p.partition for p in partitions}
        self.assignment |= ours
        self.joined = True
        self._given_up -= ours  # given up and got back within one poll: what follows is ours
        log.info("assigned partitions %s", sorted(ours), extra={"partitions": sorted(ours)})
        if self._seek is not None:
            starts = self._seek([p.partition for p in partitions])
            for partition in partitions:
                partition.offset = starts.get(partition.partition, partition.offset)
            if self._step_by_step:
                consumer.incremental_assign(partitions)
            else:  # by client_config the group rebalances eagerly: these are all
                consumer.assign(partitions)

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._before_giving_up()
        self._give_up(partitions)

    def _on_lost(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        # The group has gone on without us: there is nothing left to finish, and a commit would not
        # even be answered before this returns. A transaction is, and must have ended either way:
        # who gets these partitions next, perhaps we ourselves, begins where it leaves off.
        if self._in_transactions:
            self._before_giving_up()
        self._give_up(partitions)

    def _give_up(self, partitions: list[TopicPartition]) -> None:
        gone = {p.partition for p in partitions}
        self.joined = False
        self.assignment -= gone
        self.read_to_end -= gone
        self._given_up |= gone
        log.info("gave up partitions %s", sorted(gone), extra={"partitions": sorted(gone)})

    def _complain(self, error: KafkaError) -> None:
        self._raise_if_fenced(error)
        if error.fatal() or error.code() in MISCONFIGURED:
            raise ConfigurationError(
                f"Kafka, topic {self.topic}: {error.str()}; check NEXTCLICK_KAFKA__* settings"
            )
        log.warning("Kafka, topic %s: %s", self.topic, error.str())


def offsets_after(topic: str, messages: Sequence[Message]) -> list[TopicPartition]:
    """The offset that comes next in each partition once these messages are dealt with."""
    after: dict[int, int] = {}
    for message in messages:
        after[message.partition] = max(after.get(message.partition, 0), message.offset + 1)
    return [TopicPartition(topic, partition, offset) for partition, offset in after.items()]


def _nothing() -> None:
    """Do nothing."""
