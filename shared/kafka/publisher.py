"""Produces messages, and knows when Kafka has acknowledged them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka import Message as RawMessage

from nextclick.shared.errors import ConfigurationError, Unavailable
from nextclick.shared.kafka.client import (
    REQUEST_SECONDS,
    MakeClient,
    Permission,
    client_config,
    failed,
    login_error,
    make_client,
    missing_permission,
    unavailable,
)
from nextclick.shared.kafka.login import Login
from nextclick.shared.messages import OutMessage
from nextclick.shared.runtime.masking import redact, secrets_of_options
from nextclick.shared.runtime.settings import KafkaSettings

PRODUCER_CONFIG = {
    "enable.idempotence": True,  # implies acks=all and order per partition
    "linger.ms": 0,
    "compression.type": "zstd",  # JSON shrinks to half, even message by message
    # The hash of the Java client, so that all producers of a shop and ours put a user on the same
    # partition. The default of librdkafka is CRC32.
    "partitioner": "murmur2_random",
}


class Receipt:
    """Acknowledgements of messages that were sent together."""

    __slots__ = ("outstanding",)

    def __init__(self) -> None:
        self.outstanding = 0
        """Number of messages that are not acknowledged yet."""


class Publisher:
    """Produces messages, and knows when Kafka has acknowledged them."""

    def __init__(self, settings: KafkaSettings, make_client: MakeClient = make_client) -> None:
        """Prepare the client, made by `make_client`."""
        self._settings = settings
        self._refusal: str | None = None
        self._connected = False
        self._login_error: KafkaError | None = None
        self._topics: set[str] = set()
        self._fatal: KafkaError | None = None
        """The fatal error of the client."""
        self._producer: Producer = make_client(
            Producer,
            {
                "message.timeout.ms": 0,  # messages wait for Kafka without a limit
                "error_cb": self._on_error,
                **PRODUCER_CONFIG,
                **client_config(settings),
            },
        )
        self._login = Login(settings, self._producer)

    def connect(self) -> None:
        """Connect now; otherwise the first messages are delayed by about half a second.

        librdkafka requests its producer id on a timer of 500 ms after connecting, and does not
        report when it has it. Raises Unavailable if Kafka does not answer.
        """
        if self._connected:
            return
        self._login.renew()
        try:
            self._producer.list_topics(timeout=REQUEST_SECONDS)
        except KafkaException as error:
            raise unavailable(self._settings, error) from None
        time.sleep(0.6)
        self._connected = True

    def send(self, messages: Iterable[OutMessage]) -> Receipt:
        """Queue messages, which are sent in the background; returns the receipt to watch.

        Raises ConfigurationError if Kafka has permanently refused a message.
        """
        receipt = Receipt()
        on_delivery = partial(self._on_delivery, receipt)
        for message in messages:
            receipt.outstanding += 1
            self._topics.add(message.topic)
            with self._translated():
                produce(self._producer, message, on_delivery, while_full=self._raise_refusal)
        self.serve()
        return receipt

    def serve(self) -> None:
        """Update the receipts, without waiting.

        Raises ConfigurationError if Kafka has permanently refused a message.
        """
        self._login.renew()
        with self._translated():
            self._producer.poll(0)
        self._raise_refusal()

    def wait_acknowledged(self, timeout: float = REQUEST_SECONDS) -> None:
        """Wait until Kafka has acknowledged all messages.

        Raises Unavailable if some are outstanding after `timeout` seconds; they stay queued, so
        another call continues to wait. Raises ConfigurationError if Kafka has permanently refused a
        message.
        """
        self._login.renew()
        with self._translated():
            outstanding = self._producer.flush(timeout)
        self._raise_refusal()
        if outstanding:
            raise Unavailable(
                f"Kafka at {self._settings.bootstrap_servers}: {outstanding} messages not "
                f"acknowledged within {timeout:g} s{self._login_failed()}"
            )

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Translate errors of the client into ours.

        With an error_cb, `poll` and `flush` raise a fatal error once; `produce` then raises only
        that there was one.
        """
        try:
            yield
        # Beside KafkaException the client raises a bare KafkaError, which is not an Exception, and
        # a SystemError if a delivery report arrives while its own exception is being raised.
        except (KafkaException, KafkaError, SystemError) as raised:  # type: ignore[misc]
            cause = raised.__cause__ if isinstance(raised, SystemError) else raised
            if isinstance(cause, KafkaError):
                error = cause
            elif isinstance(cause, KafkaException):
                error = cause.args[0]
            else:
                raise
            if error.code() == KafkaError._FATAL and self._fatal is None:
                try:
                    self._producer.poll(0)
                except KafkaException as first:
                    error = first.args[0]
            if error.fatal():
                self._fatal = error
            needed = [Permission("Write", "topic", topic) for topic in sorted(self._topics)]
            raise failed(self._settings, self._fatal or error, *needed) from None

    def _login_failed(self) -> str:
        """Why no broker lets us in, as the end of an error; empty if one does."""
        if self._login_error is None:
            return ""
        cause = redact(secrets_of_options(self._settings.client_config), self._login_error.str())
        return f": {cause}; check NEXTCLICK_KAFKA__CLIENT_CONFIG"

    def _on_error(self, error: KafkaError) -> None:
        self._login_error = login_error(error, self._login_error)

    def _on_delivery(self, receipt: Receipt, error: KafkaError | None, raw: RawMessage) -> None:
        if error is None:
            receipt.outstanding -= 1
            self._login_error = None
        else:
            self._refusal = refusal(error, raw)

    def _raise_refusal(self) -> None:
        if self._refusal is not None:
            # A retry does not help: messages do not expire, so it was refused permanently.
            raise ConfigurationError(
                f"Kafka at {self._settings.bootstrap_servers} refused {self._refusal}"
            )


def produce(
    producer: Producer,
    message: OutMessage,
    on_delivery: Callable[[KafkaError | None, RawMessage], None],
    *,
    while_full: Callable[[], None],
) -> None:
    """Queue a message; while the client's queue is full, wait and call `while_full`."""
    while True:
        try:
            producer.produce(
                message.topic,
                message.value,
                message.key,
                partition=-1 if message.partition is None else message.partition,
                headers=list(message.headers) or None,
                on_delivery=on_delivery,
            )
            return
        except BufferError:
            producer.poll(0.1)
            while_full()


def refusal(error: KafkaError, raw: RawMessage) -> str:
    """Which message Kafka refused, why, and the remedy, as text for an error."""
    size = sum(len(part or b"") for part in (raw.key(), raw.value()))
    remedy = missing_permission(error, Permission("Write", "topic", raw.topic() or "?"))
    return (
        f"a message of {size:,} bytes for topic {raw.topic()}, partition {raw.partition()}: "
        f"{error.str()}; {remedy or 'check the settings of the topic (max.message.bytes)'}"
    )
