"""Shared by all Kafka clients: configuration, requests, and the translation of errors."""

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
_LEADER_SECONDS = 0.05
_MOVING = {KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.OFFSET_NOT_AVAILABLE}
"""Between two questions while a partition's leader changes."""
REQUEST_SECONDS = 10.0
"""Longest time of one request, after which Kafka counts as unavailable."""

LOW_LATENCY = {
    # librdkafka prefetches until this many messages of a partition are queued, and does not fetch
    # from a partition with a full queue. A consumer that keeps up must never reach this limit:
    # with 1, each click waited 11 ms for the long poll on the other partitions.
    "queued.min.messages": 1_000,
    # How long a full queue is not refilled; with the default of one second it would run empty.
    "fetch.queue.backoff.ms": 20,
}
"""Consumer settings for serving: prefetch, and deliver each message at once."""

BULK = {
    # Few, large fetches: nearly no requests.
    "queued.min.messages": 1,
    "fetch.queue.backoff.ms": 500,
    "fetch.min.bytes": 65_536,
}
"""Consumer settings for collecting: half a second of delay is fine."""

MISCONFIGURED = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    KafkaError._AUTHENTICATION,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.MSG_SIZE_TOO_LARGE,
}


_TRANSPORT = KafkaError(KafkaError._TRANSPORT).str()
"""What librdkafka says of a connection that broke."""
_LOGIN_REFUSED = {KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED}

FORBIDDEN = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "topic",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "group",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "transactional id",
    # The only request to the cluster is for a producer id, granted to users who may write a topic.
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "topic",
}
"""Error code → kind of the resource on which a permission is missing."""

WITHOUT_GROUP = {
    # librdkafka needs a group even for a consumer that never joins, and looks up its coordinator.
    "group.id": "nextclick-reader",
    "enable.auto.commit": False,
}
"""Consumer settings for reading given offsets; no permission on the group is needed."""

MISCONFIGURED_WITHOUT_GROUP = MISCONFIGURED - {KafkaError.GROUP_AUTHORIZATION_FAILED}

DESCRIBE = "Describe (which Read and Write include)"


@dataclass(frozen=True)
class Permission:
    """An operation of Kafka's ACLs on a resource."""

    operation: str
    kind: str
    """topic, group or transactional id."""
    name: str

    def __str__(self) -> str:
        """The permission as text for an error."""
        return f"{self.operation} on the {self.kind} {self.name}"


class RepeatFilter(logging.Filter):
    """Passes each log message once a minute: a client that cannot connect repeats it often."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._limits: dict[str, RateLimit] = defaultdict(partial(RateLimit, clock))

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to pass a record; messages that differ only in numbers count as the same."""
        if len(self._limits) >= _MESSAGES_REMEMBERED:
            self._limits.clear()
        return self._limits[re.sub(r"\d+", "#", record.getMessage())].allow()


logging.getLogger("librdkafka").addFilter(RepeatFilter())


_throttle_warnings = RateLimit()


def _on_throttle(event: ThrottleEvent) -> None:
    if _throttle_warnings.allow():
        log.warning(
            "Kafka throttles this client by %.0f ms per request: its quota is used up (%s)",
            1000 * event.throttle_time,
            event.broker_name,
        )


def client_config(settings: KafkaSettings) -> dict[str, Any]:
    """The librdkafka settings of every client.

    Raises ConfigurationError if the password is in a file that cannot be read.
    """
    return {
        "bootstrap.servers": settings.bootstrap_servers,
        "client.id": settings.client_id or "nextclick",
        # librdkafka logs through our handlers instead of to stderr.
        "logger": logging.getLogger("librdkafka"),
        "log.connection.close": False,
        "throttle_cb": _on_throttle,
        **settings.client_config,
        **login_options(settings),
    }


MakeClient: TypeAlias = Callable[[Callable[[dict[str, Any]], Any], dict[str, Any]], Any]
"""The type of `make_client`; a simulation passes its own."""


def make_client(kind: Callable[[dict[str, Any]], Any], config: dict[str, Any]) -> Any:
    """Make a librdkafka client; raises ConfigurationError for an invalid configuration."""
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
    """Wait up to `timeout` seconds for a message or error; returns it and all others available."""
    first = consumer.poll(timeout)
    if first is None:
        return []
    # consume() with a timeout would wait until the batch is full; 0 takes what is available.
    rest = consumer.consume(max_messages - 1, 0) if max_messages > 1 else []
    return [first, *rest]


def partitions_of(
    settings: KafkaSettings, consumer: Consumer, topic: str, timeout: float = REQUEST_SECONDS
) -> list[int]:
    """The partitions of a topic.

    Raises Unavailable if Kafka does not answer or has no such topic, ConfigurationError if the
    permission to describe it is missing.
    """
    try:
        metadata = consumer.list_topics(topic, timeout=timeout).topics[topic]
    except KafkaException as error:
        raise unavailable(settings, error) from None
    if metadata.error is not None:
        if metadata.error.code() in FORBIDDEN:
            raise failed(settings, metadata.error, Permission(DESCRIBE, "topic", topic))
        raise Unavailable(
            f"Kafka at {settings.bootstrap_servers}, topic {topic}: {metadata.error.str()}; "
            "`nextclick topics create` creates what is missing"
        )
    return sorted(metadata.partitions)


def watermarks_of(
    settings: KafkaSettings, consumer: Consumer, topic: str, timeout: float = REQUEST_SECONDS
) -> dict[int, range]:
    """Partition → offsets that it retains now.

    Raises Unavailable if the leader of a partition does not answer within `timeout` seconds.
    """
    try:
        return {
            partition: _watermarks(consumer, TopicPartition(topic, partition), timeout)
            for partition in partitions_of(settings, consumer, topic, timeout)
        }
    except KafkaException as error:
        raise unavailable(settings, error) from None


def _watermarks(consumer: Consumer, place: TopicPartition, timeout: float) -> range:
    deadline = time.monotonic() + timeout
    while True:
        try:
            return range(*consumer.get_watermark_offsets(place, timeout=timeout))
        except KafkaException as error:
            # A partition that was just created, or moved: the client asks who leads it now, or its
            # new leader does not know yet what the others have (KIP-207).
            is_moving = error.args[0].code() in _MOVING
            if not is_moving or time.monotonic() > deadline:
                raise
            time.sleep(_LEADER_SECONDS)


def read_message(raw: RawMessage) -> Message:
    """Convert a librdkafka message that is not an error."""
    topic, partition, offset = raw.topic(), raw.partition(), raw.offset()
    assert topic is not None
    assert partition is not None
    assert offset is not None
    try:
        headers = cast(list[tuple[str, bytes | None]], raw.headers() or [])
    except SystemError:
        # The client raises this if a header's name is not UTF-8, which any producer can send. Our
        # headers are ASCII, so all headers are dropped; a second call would return a NULL.
        headers = []
    kind, at = raw.timestamp()
    timestamp_ms = None if kind == TIMESTAMP_NOT_AVAILABLE else at
    return Message(topic, partition, offset, raw.key(), raw.value(), tuple(headers), timestamp_ms)


def login_error(error: KafkaError, former: KafkaError | None) -> KafkaError | None:
    """The error of a login, given what librdkafka reports beside all requests, and the former one.

    After a refusal it often reports that the connection broke in the next login, with the same
    code; that is not kept in place of the refusal.
    """
    if error.code() != KafkaError._AUTHENTICATION or (former is not None and _broke(error)):
        return former
    return error


def _broke(error: KafkaError) -> bool:
    """Whether a login failed because its connection broke, as when a broker restarts."""
    return error.code() in _LOGIN_REFUSED and _TRANSPORT in error.str()


def unavailable(
    settings: KafkaSettings, error: KafkaException, causes: Sequence[KafkaError] = ()
) -> Unavailable:
    """The error for a Kafka that is unavailable, with its address and the client's `causes`."""
    reasons = [cause.str() for cause in causes if cause.code() != KafkaError._ALL_BROKERS_DOWN]
    most_specific = sorted(reasons, key=len)[-1:]  # the longest
    text = ": ".join([error.args[0].str(), *most_specific])
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
    """Translate the error of a request.

    ConfigurationError if a retry cannot help, for example if one of the `needed` permissions is
    missing; else Unavailable. A password in a file may change, so a refused login is retried, as is
    one in which the connection broke.
    """
    if error.code() in _LOGIN_REFUSED and settings.sasl_password_file:
        text = redact((), error.str().rstrip("."))
        return Unavailable(
            f"Kafka at {settings.bootstrap_servers}: {text}; trying again with the password that "
            f"is then in {settings.sasl_password_file} ({SETTING})"
        )
    if _broke(error) or (error.code() not in MISCONFIGURED and not error.fatal()):
        return unavailable(settings, KafkaException(error))
    text = redact(secrets_of_options(settings.client_config), error.str().rstrip("."))
    remedy = missing_permission(error, *needed) or (
        "restart the process" if error.fatal() else "check NEXTCLICK_KAFKA__* settings"
    )
    return ConfigurationError(f"Kafka at {settings.bootstrap_servers}: {text}; {remedy}")


def missing_permission(error: KafkaError, *needed: Permission) -> str:
    """Which of the needed permissions is missing, as text; empty for an error of another kind."""
    if error.code() not in FORBIDDEN:
        return ""
    missing = [str(p) for p in needed if p.kind == FORBIDDEN[error.code()]]
    what = " and ".join(missing) or f"a permission on a {FORBIDDEN[error.code()]}"
    return f"this user lacks {what} (SECURITY.md)"
