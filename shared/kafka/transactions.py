"""Exactly once: a batch's answers and its offsets become visible together, or not at all.

KIP-98 (transactions) and KIP-447 (one producer for all partitions of a consumer). Whoever begins
under the same transactional id ends what its predecessor left open and fences it off: a worker
that was thought dead and wakes up cannot commit.
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
"""So long a worker that died for good holds back the readers of committed answers."""


class TransactionalPublisher:
    """Makes messages and a consumer's offsets visible together; one transaction at a time."""

    def __init__(
        self,
        settings: KafkaSettings,
        transactional_id: str,
        topic: str,
        make_client: MakeClient = make_client,
        background: Callable[[str, Callable[[], object]], BackgroundCall] = BackgroundCall,
    ) -> None:
        """Prepare the client; `transactional_id` names one worker and its heirs.

        The offsets are those of `topic`. `make_client` and `background` make clients and
        transactions; a simulation has its own.
        """
        self._settings = settings
        self._make_client = make_client
        self._background = background
        self._id = transactional_id
        self._topic = topic
        self._naming = Permission("Write", "transactional id", transactional_id)
        self._producer = self._new_client()
        self._login = Login(settings, self._producer)

    def _new_client(self) -> Producer:
        client: Producer = self._make_client(
            Producer,
            {
                **PRODUCER_CONFIG,
                "transactional.id": self._id,
                "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
                # Kafka refuses what begins a transaction (CONCURRENT_TRANSACTIONS) while it writes
                # the markers of the one before, some ms. The client would ask again after 100.
                # It would double that at each try, and miss the end by as much again.
                "retry.backoff.ms": 2,
                "retry.backoff.max.ms": 4,
                **client_config(self._settings),
            },
        )
        return client

    def connect(self) -> None:
        """Fence off whoever had the transactional id before, and end what it left open.

        Raises Unavailable if Kafka does not answer, ConfigurationError if it does not allow it.
        """
        self._login.renew()
        try:
            self._producer.init_transactions(REQUEST_SECONDS)
        except KafkaException as error:
            raise self._translated(error) from None

    def reconnect(self) -> None:
        """Take a new client. After this no request of the old one can have an effect any more.

        An EndTxn of the old client that is late on its way would otherwise end the transaction that
        is open when it arrives: librdkafka lacks KIP-890. Raises like `connect`; calling again is
        right.
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

        `group` is the consumer's group_metadata() of the time when it read: if the group has gone
        on since, it must refuse the offsets (KIP-447). `on_step` hears of "acknowledged", from the
        background. The transaction before must have ended.

        The outcome is CommitRefused if it was aborted, so none of it is visible, and Unavailable if
        nobody knows what became of it.
        """
        self._login.renew()
        producer = self._producer  # a later one is none of this transaction's business
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
            # The offsets first: until Kafka has written the markers of the transaction before, it
            # refuses both, and the client asks again for offsets after `retry.backoff.ms`, but for
            # the messages' partitions only after 20 ms.
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
            # confluent-kafka stumbles over its own exception when a delivery report brings a fatal
            # error. What it was nobody knows.
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
            producer.flush(REQUEST_SECONDS)  # hear now of what was thrown away with it
        except KafkaException as second:
            raise self._translated(second) from None
        if error.code() in MISCONFIGURED:  # it would be aborted again and again
            topics = sorted({message.topic for message in messages})
            writing = [Permission("Write", "topic", topic) for topic in topics]
            raise failed(self._settings, error, *writing, self._naming) from None
        raise CommitRefused(f"transaction aborted: {error.str()}") from None

    def _translated(self, raised: KafkaException) -> Exception:
        error: KafkaError = raised.args[0]
        if error.code() in MISCONFIGURED:
            return failed(self._settings, error, self._naming)
        # Also if the producer or our name in the group was fenced: a transaction that expired in an
        # outage does that just as a twin does. Whether there is a twin the consumer finds out.
        return unavailable(self._settings, raised)
