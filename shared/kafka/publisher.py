"""Producing, and knowing when the broker has it all: with or without transactions."""

from __future__ import annotations

import time
from collections.abc import Iterable

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka import Message as RawMessage

from shared.errors import ConfigurationError, Unavailable
from shared.kafka.client import REQUEST_SECONDS, client_config, make_client, unavailable
from shared.messages import OutMessage
from shared.settings import KafkaSettings


class Publisher:
    """Produces messages and knows when the broker has them all."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._failed: KafkaError | None = None
        self._connected = False
        self._producer = self._new_client()

    def _new_client(self) -> Producer:
        config = {
            "enable.idempotence": True,  # implies acks=all and order per partition
            "linger.ms": 0,
            "compression.type": "zstd",  # JSON shrinks to half, even message by message
            **self._specific(),
            **client_config(self._settings),
        }
        client: Producer = make_client(Producer, config)
        return client

    def _specific(self) -> dict[str, object]:
        return {"message.timeout.ms": 0}  # a message waits for Kafka to come back, for ever

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
            raise unavailable(self._settings, error) from None
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
                        partition=-1 if message.partition is None else message.partition,
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
