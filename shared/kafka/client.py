"""What all clients have in common: configuration, requests, and what an error means."""

from __future__ import annotations

import logging
import re
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, cast

from confluent_kafka import (
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    KafkaError,
    KafkaException,
    ThrottleEvent,
    TopicPartition,
)
from confluent_kafka import Message as RawMessage

from nextclick.shared.errors import ConfigurationError, Unavailable
from nextclick.shared.kafka.login import SETTING, login_options
from nextclick.shared.messages import Message
from nextclick.shared.runtime.masking import redact, secrets_of_options
from nextclick.shared.runtime.rate_limit import RateLimit
from nextclick.shared.runtime.settings import KafkaSettings

log = logging.getLogger(__name__)

_MESSAGES_REMEMBERED = 1000
REQUEST_SECONDS = 10.0
"""How long one request to the cluster may take before it counts as unavailable."""

LOW_LATENCY = {
    # librdkafka fetches ahead until so many messages of a partition are queued, and leaves a
    # partition with a full queue out of its fetches: the bound must never be reached by a consumer
    # that keeps up. (With 1, each click waited 11 ms for the long poll on the other partitions.)
    "queued.min.messages": 1_000,
    # How long a full queue stays out; the default of one second would let it run dry.
    "fetch.queue.backoff.ms": 20,
}
"""For whoever answers: reads ahead, and is given each message as it comes."""

BULK = {
    # Few, large pieces: it saves both sides nearly all requests.
    "queued.min.messages": 1,
    "fetch.queue.backoff.ms": 500,
    "fetch.min.bytes": 65_536,
    "max.poll.interval.ms": 86_400_000,
}
"""For whoever collects: half a second is nothing to it, and it may not poll for hours."""

MISCONFIGURED = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    KafkaError._AUTHENTICATION,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.MSG_SIZE_TOO_LARGE,
}


_LOGIN_REFUSED = {KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED}

_FORBIDDEN = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "topic",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "group",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "transactional id",
    # All that we ask of the cluster is a producer id. Whoever may write to some topic gets one.
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "topic",
}
"""What kind of resource each error is about."""


WITHOUT_GROUP = {
    # librdkafka wants a name even of a consumer that never joins, and asks who coordinates it.
    "group.id": "nextclick-reader",
    "enable.auto.commit": False,
}
"""For whoever says himself which offsets to read. He needs no permission on the group."""

MISCONFIGURED_WITHOUT_GROUP = MISCONFIGURED - {KafkaError.GROUP_AUTHORIZATION_FAILED}

SEE = "Describe (which Read and Write include)"


@dataclass(frozen=True)
class Permission:
    """An operation of Kafka's ACLs on a resource."""

    operation: str
    kind: str
    """topic, group or transactional id."""
    name: str

    def __str__(self) -> str:
        """As it stands in an error."""
        return f"{self.operation} on the {self.kind} {self.name}"


class RepeatFilter(logging.Filter):
    """Passes a message once a minute: a client that cannot connect says so a hundred times."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._limits: dict[str, RateLimit] = defaultdict(partial(RateLimit, clock))

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether to pass a record; messages that differ in numbers only are the same."""
        if len(self._limits) >= _MESSAGES_REMEMBERED:
            self._limits.clear()
        return self._limits[re.sub(r"\d+", "#", record.getMessage())].allow()


logging.getLogger("librdkafka").addFilter(RepeatFilter())


_throttle_warnings = RateLimit()


def _on_throttle(event: ThrottleEvent) -> None:
    if _throttle_warnings.allow():
        log.warning(
            "Kafka slows this client down by %.0f ms a request: it has used up its quota (%s)",
            1000 * event.throttle_time,
            event.broker_name,
        )


def client_config(settings: KafkaSettings) -> dict[str, Any]:
    """What the settings say for every client.

    Raises ConfigurationError if the password is in a file that cannot be read.
    """
    return {
        "bootstrap.servers": settings.bootstrap_servers,
        "client.id": settings.client_id or "nextclick",
        # librdkafka's own lines go to our log instead of raw to stderr.
        "logger": logging.getLogger("librdkafka"),
        "log.connection.close": False,
        "throttle_cb": _on_throttle,
        **settings.client_config,
        **login_options(settings),
    }


MakeClient: TypeAlias = Callable[[Callable[[dict[str, Any]], Any], dict[str, Any]], Any]
"""`make_client`, or what a simulation has instead."""


def make_client(kind: Callable[[dict[str, Any]], Any], config: dict[str, Any]) -> Any:
    """Make a librdkafka client, turning a refused configuration into one clear line."""
    try:
        return kind(config)
    except (KafkaException, ValueError, TypeError) as error:
        cause = error.args[0].str() if isinstance(error, KafkaException) else str(error)
        cause = redact(secrets_of_options(config), cause)  # librdkafka quotes what it refuses
        raise ConfigurationError(
            f"the Kafka client refuses its configuration ({cause}); "
            "check NEXTCLICK_KAFKA__BOOTSTRAP_SERVERS and NEXTCLICK_KAFKA__CLIENT_CONFIG"
        ) from None


def poll_raw(consumer: Consumer, max_messages: int, timeout: float) -> list[RawMessage]:
    """Wait up to `timeout` seconds for a message or error; return it and what else is at hand."""
    first = consumer.poll(timeout)
    if first is None:
        return []
    # consume() with a timeout would wait until the batch is full; 0 takes what is there.
    rest = consumer.consume(max_messages - 1, 0) if max_messages > 1 else []
    return [first, *rest]


def partitions_of(
    settings: KafkaSettings, consumer: Consumer, topic: str, timeout: float = REQUEST_SECONDS
) -> list[int]:
    """The partitions of a topic.

    Raises Unavailable if Kafka does not answer or has no such, ConfigurationError if we may not
    see it.
    """
    try:
        metadata = consumer.list_topics(topic, timeout=timeout).topics[topic]
    except KafkaException as error:
        raise unavailable(settings, error) from None
    if metadata.error is not None:
        if metadata.error.code() in _FORBIDDEN:
            raise failed(settings, metadata.error, Permission(SEE, "topic", topic))
        raise Unavailable(
            f"Kafka at {settings.bootstrap_servers}, topic {topic}: {metadata.error.str()}; "
            "`nextclick topics create` creates what is missing"
        )
    return sorted(metadata.partitions)


def watermarks_of(
    settings: KafkaSettings, consumer: Consumer, topic: str, timeout: float = REQUEST_SECONDS
) -> dict[int, range]:
    """The offsets that each partition holds now.

    Raises Unavailable if the leader of one does not answer within `timeout` seconds.
    """
    try:
        return {
            partition: range(
                *consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=timeout)
            )
            for partition in partitions_of(settings, consumer, topic, timeout)
        }
    except KafkaException as error:
        raise unavailable(settings, error) from None


def read_message(raw: RawMessage) -> Message:
    """Take over a librdkafka message that is no error."""
    topic, partition, offset = raw.topic(), raw.partition(), raw.offset()
    assert topic is not None
    assert partition is not None
    assert offset is not None
    try:
        headers = cast(list[tuple[str, bytes | None]], raw.headers() or [])
    except SystemError:
        # A name among them is not UTF-8: anybody can send that, and the client then raises this.
        # No header of ours is such, so they are nothing to us; asked again, it gives out a NULL.
        headers = []
    kind, at = raw.timestamp()
    timestamp_ms = None if kind == TIMESTAMP_NOT_AVAILABLE else at
    return Message(topic, partition, offset, raw.key(), raw.value(), tuple(headers), timestamp_ms)


def unavailable(
    settings: KafkaSettings, error: KafkaException, heard: Sequence[KafkaError] = ()
) -> Unavailable:
    """Say that Kafka is away, where it was looked for, and what the client has `heard`."""
    reasons = [h.str() for h in heard if h.code() != KafkaError._ALL_BROKERS_DOWN]
    text = ": ".join([error.args[0].str(), *sorted(reasons, key=len)[-1:]])  # the longest says most
    if "certificate verify failed" in text:  # librdkafka names only the first of the reasons
        text += "; or the certificate has expired, or is not for this host"
    if settings.client_config and reasons:
        text += "; check NEXTCLICK_KAFKA__CLIENT_CONFIG"
    return Unavailable(
        f"Kafka at {settings.bootstrap_servers} (NEXTCLICK_KAFKA__BOOTSTRAP_SERVERS): "
        + redact(secrets_of_options(settings.client_config), text)
    )


def failed(
    settings: KafkaSettings, error: KafkaError, *needed: Permission
) -> ConfigurationError | Unavailable:
    """What the failure of a request means.

    ConfigurationError for what time does not heal, such as one of the `needed` permissions that is
    missing; else Unavailable. A password in a file may change, so a login that is refused heals.
    """
    if error.code() in _LOGIN_REFUSED and settings.sasl_password_file:
        text = redact((), error.str().rstrip("."))
        return Unavailable(
            f"Kafka at {settings.bootstrap_servers}: {text}; trying again with the password that "
            f"is then in {settings.sasl_password_file} ({SETTING})"
        )
    if error.code() not in MISCONFIGURED and not error.fatal():
        return unavailable(settings, KafkaException(error))
    text = redact(secrets_of_options(settings.client_config), error.str().rstrip("."))
    remedy = lacking(error, *needed) or (
        "a restart begins anew" if error.fatal() else "check NEXTCLICK_KAFKA__* settings"
    )
    return ConfigurationError(f"Kafka at {settings.bootstrap_servers}: {text}; {remedy}")


def lacking(error: KafkaError, *needed: Permission) -> str:
    """Which of the needed permissions Kafka misses, for an error's text; empty if it is no such."""
    if error.code() not in _FORBIDDEN:
        return ""
    missing = [str(p) for p in needed if p.kind == _FORBIDDEN[error.code()]]
    what = " and ".join(missing) or f"a permission on a {_FORBIDDEN[error.code()]}"
    return f"this user lacks {what} (SECURITY.md)"
