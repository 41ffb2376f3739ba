"""Exactly once: the answers and the offsets of batches become visible together, or not at all.

KIP-98 (transactions) and KIP-447 (one producer for all partitions of a consumer). A new producer
with the same transactional id aborts the open transaction of the previous one and fences it, so a
worker that was declared dead and resumes cannot commit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka import Message as RawMessage

from nextclick.shared.errors import CommitRefused, ConfigurationError, Unavailable
from nextclick.shared.kafka.background import BackgroundCall
from nextclick.shared.kafka.client import (
    MISCONFIGURED,
    REQUEST_SECONDS,
    MakeClient,
    Permission,
    client_config,
    failed,
    make_client,
    unavailable,
)
from nextclick.shared.kafka.login import Login
from nextclick.shared.kafka.publisher import PRODUCER_CONFIG, produce, refusal
from nextclick.shared.messages import OutMessage
from nextclick.shared.runtime.settings import KafkaSettings

TRANSACTION_TIMEOUT_MS = 30_000
"""After the death of a worker, readers of committed answers are delayed by this time."""


class TransactionalPublisher:
    """Commits messages and a consumer's offsets together; one transaction at a time."""

    def __init__(
        self,
        settings: KafkaSettings,
        transactional_id: str,
        topic: str,
        make_client: MakeClient = make_client,
        background: Callable[[str, Callable[[], object]], BackgroundCall] = BackgroundCall,
    ) -> None:
        """Make the client, without connecting.

        transactional_id: unique to one worker, and kept over its restarts. topic: the topic of the
        offsets. make_client, background: replaced by simulations.
        """
        self._settings = settings
        self._make_client = make_client
        self._background = background
        self._id = transactional_id
        self._topic = topic
        self._id_permission = Permission("Write", "transactional id", transactional_id)
        self._producer = self._new_client()
        self._login = Login(settings, self._producer)

    def _new_client(self) -> Producer:
        client: Producer = self._make_client(
            Producer,
            {
                **PRODUCER_CONFIG,
                "transactional.id": self._id,
                "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
                # While Kafka writes the markers of the previous transaction, some ms, it refuses to
                # begin another (CONCURRENT_TRANSACTIONS). By default the client retries after
                # 100 ms, and doubles that at each try.
                "retry.backoff.ms": 2,
                "retry.backoff.max.ms": 4,
                **client_config(self._settings),
            },
        )
        return client

    def connect(self) -> None:
        """Fence the previous producer with this transactional id, and abort its transaction.

        Raises Unavailable if Kafka does not answer, ConfigurationError for a missing permission.
        """
        self._login.renew()
        try:
            self._producer.init_transactions(REQUEST_SECONDS)
        except KafkaException as error:
            raise self._translated(error) from None

    def reconnect(self) -> None:
        """Replace the client; after this, no request of the old one has an effect.

        Otherwise a delayed EndTxn of the old client could end a later transaction, because
        librdkafka lacks KIP-890. Raises as `connect` does; it can be called again.
        """
        self._producer = self._new_client()
        self._login = Login(self._settings, self._producer)
        self.connect()

    def begin(
        self,
        messages: Sequence[OutMessage],
        offsets: Mapping[int, int],
        group: Any,
        on_step: Callable[[str], None] = lambda step: None,
    ) -> BackgroundCall:
        """Begin a transaction with these messages and offsets, and end it in the background.

        group: the consumer's group_metadata() when the clicks were read; the group refuses the
        offsets if it has rebalanced since (KIP-447). on_step: called in the background with
        "acknowledged". The previous transaction must have ended.

        The outcome of the returned call is CommitRefused if the transaction was aborted, so that
        nothing is visible, and Unavailable if its outcome is unknown.
        """
        self._login.renew()
        producer = self._producer  # `reconnect` replaces the attribute
        return self._background(
            "transaction", lambda: self._transact(producer, messages, offsets, group, on_step)
        )

    def _transact(
        self,
        producer: Producer,
        messages: Sequence[OutMessage],
        offsets: Mapping[int, int],
        group: Any,
        on_step: Callable[[str], None],
    ) -> None:
        refusals: list[str] = []

        def on_delivery(error: KafkaError | None, raw: RawMessage) -> None:
            if error is not None and error.code() in MISCONFIGURED:
                refusals.append(refusal(error, raw))

        places = [TopicPartition(self._topic, p, offset) for p, offset in offsets.items()]
        try:
            producer.begin_transaction()
            # The offsets first: until Kafka has written the markers of the previous transaction it
            # refuses both, and the client retries offsets after `retry.backoff.ms`, but the
            # partitions of messages only after 20 ms.
            producer.send_offsets_to_transaction(places, group, REQUEST_SECONDS)
            for message in messages:
                produce(producer, message, on_delivery, while_full=lambda: None)
            if outstanding := producer.flush(REQUEST_SECONDS):
                raise Unavailable(
                    f"Kafka at {self._settings.bootstrap_servers}: {outstanding} messages of a "
                    f"transaction not acknowledged within {REQUEST_SECONDS:g} s"
                )
            on_step("acknowledged")
            producer.commit_transaction(REQUEST_SECONDS)
        except KafkaException as error:
            self._abort(producer, error, messages)
        except SystemError as error:
            # confluent-kafka raises this if a delivery report brings a fatal error while another
            # exception is being raised; the cause is lost.
            raise Unavailable(f"the Kafka client failed within a transaction: {error}") from None
        finally:
            if refusals:
                raise ConfigurationError(
                    f"Kafka at {self._settings.bootstrap_servers} refused {refusals[0]}"
                )

    def _abort(
        self, producer: Producer, raised: KafkaException, messages: Sequence[OutMessage]
    ) -> None:
        error: KafkaError = raised.args[0]
        if not error.txn_requires_abort():
            raise self._translated(raised) from None
        try:
            producer.abort_transaction(REQUEST_SECONDS)
            producer.flush(REQUEST_SECONDS)  # serve the delivery reports of the aborted messages
        except KafkaException as second:
            raise self._translated(second) from None
        if error.code() in MISCONFIGURED:  # a retry would be aborted, too
            topics = sorted({message.topic for message in messages})
            writing = [Permission("Write", "topic", topic) for topic in topics]
            raise failed(self._settings, error, *writing, self._id_permission) from None
        raise CommitRefused(f"transaction aborted: {error.str()}") from None

    def _translated(self, raised: KafkaException) -> Exception:
        error: KafkaError = raised.args[0]
        if error.code() in MISCONFIGURED:
            return failed(self._settings, error, self._id_permission)
        # Also if the producer or the group member was fenced: a transaction that expired in an
        # outage looks like a second worker with this id. The consumer tells the two apart.
        return unavailable(self._settings, raised)
