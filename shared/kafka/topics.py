"""Creates topics, and reads their settings."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ConfigResource,
    NewTopic,
    TopicMetadata,
)

from nextclick.shared.errors import ConfigurationError, Unavailable
from nextclick.shared.kafka.client import (
    DESCRIBE,
    FORBIDDEN,
    REQUEST_SECONDS,
    Permission,
    client_config,
    failed,
    make_client,
    missing_permission,
    unavailable,
)
from nextclick.shared.runtime.settings import KafkaSettings

_DAY_MS = 86_400_000
_TOMBSTONES_MS = 100 * 365 * _DAY_MS
"""Compaction keeps the tombstones of items for a hundred years: who reads the topic from its
beginning must learn what is retired, however long ago that was."""


def ensure_topics(settings: KafkaSettings, topics: Iterable[str]) -> list[str]:
    """Create missing topics; returns their names. Existing topics are not altered.

    Raises Unavailable if Kafka does not answer, ConfigurationError if it refuses.
    """
    causes: list[KafkaError] = []
    # This client connects first, so it reports login and TLS errors: in the exception, not the log.
    callbacks = {"error_cb": causes.append, "log_level": 0}
    admin = make_client(AdminClient, {**callbacks, **client_config(settings)})
    existing = _topics_of(settings, admin, causes)
    new = [
        NewTopic(
            topic,
            num_partitions=settings.partitions_of(topic),
            replication_factor=settings.replication_factor,
            config=new_topic_config(settings, topic),
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
            if code in FORBIDDEN:
                raise _not_permitted(settings, admin, topic, error.args[0]) from None
            if error.args[0].retriable() or code == KafkaError._TIMED_OUT:
                raise unavailable(settings, error) from None
            raise ConfigurationError(
                f"Kafka refused to create the topic {topic}: {error.args[0].str()}; "
                "check NEXTCLICK_KAFKA__PARTITIONS and __REPLICATION_FACTOR, or create it yourself"
            ) from None
    _wait_until_known(settings, admin, created)
    return created


def _not_permitted(
    settings: KafkaSettings, admin: AdminClient, topic: str, refusal: KafkaError
) -> ConfigurationError | Unavailable:
    """The error for a missing permission: to create the topic, or to see the existing one."""
    if _is_hidden(admin, topic):
        return failed(settings, refusal, Permission(DESCRIBE, "topic", topic))
    return ConfigurationError(
        f"Kafka at {settings.bootstrap_servers} has no topic {topic}, and "
        f"{missing_permission(refusal, Permission('Create', 'topic', topic))}; "
        "`nextclick topics create` creates it for whoever has it"
    )


def _is_hidden(admin: AdminClient, topic: str) -> bool:
    """Whether the permission to describe a topic is missing."""
    asked = admin.describe_topics(TopicCollection([topic]), request_timeout=REQUEST_SECONDS)
    try:
        asked[topic].result()
    except KafkaException as error:
        return bool(error.args[0].code() == KafkaError.TOPIC_AUTHORIZATION_FAILED)
    return False


def new_topic_config(settings: KafkaSettings, topic: str) -> dict[str, str]:
    """The configuration of a topic that is created."""
    retention_ms = int(settings.retention_hours * 3_600_000)
    config = {"retention.ms": str(retention_ms)}
    if topic == settings.items_topic:
        config = {
            "cleanup.policy": "compact",
            "delete.retention.ms": str(_TOMBSTONES_MS),
            "min.compaction.lag.ms": str(retention_ms + _DAY_MS),
        }
    elif topic == settings.related_topic:
        config = {"cleanup.policy": "compact"}
    if settings.min_insync_replicas:
        config["min.insync.replicas"] = str(settings.min_insync_replicas)
    return config


def max_message_bytes(settings: KafkaSettings, topic: str) -> int | None:
    """The topic's max.message.bytes; None if the permission to read it is missing.

    Raises Unavailable if Kafka does not answer.
    """
    try:
        return int(topic_config(settings, topic)["max.message.bytes"])
    except ConfigurationError:  # DescribeConfigs
        return None


def topic_config(settings: KafkaSettings, topic: str) -> dict[str, str]:
    """The configuration of a topic, with the brokers' defaults.

    Raises Unavailable if Kafka does not answer, ConfigurationError for a missing permission.
    """
    admin = make_client(AdminClient, client_config(settings))
    asked = ConfigResource(ConfigResource.Type.TOPIC, topic)
    try:
        config = admin.describe_configs([asked], request_timeout=REQUEST_SECONDS)[asked].result()
    except KafkaException as error:
        needed = Permission("DescribeConfigs", "topic", topic)
        raise failed(settings, error.args[0], needed) from None
    return {name: entry.value for name, entry in config.items()}


def existing_topics(settings: KafkaSettings, topics: Iterable[str]) -> list[str]:
    """Those of the topics that exist.

    Raises Unavailable if Kafka does not answer, ConfigurationError for a missing permission.
    """
    admin = make_client(AdminClient, client_config(settings))
    existing, found = _topics_of(settings, admin), []
    for topic in topics:
        if topic in existing:
            found.append(topic)
        elif _is_hidden(admin, topic):
            raise ConfigurationError(
                f"Kafka at {settings.bootstrap_servers} does not show the topic {topic}: this user "
                f"lacks {Permission(DESCRIBE, 'topic', topic)} (SECURITY.md)"
            )
    return found


def _wait_until_known(settings: KafkaSettings, admin: AdminClient, topics: Sequence[str]) -> None:
    """Wait until the brokers list these topics; the controller knows new topics earlier.

    Raises Unavailable if they do not within REQUEST_SECONDS.
    """
    deadline = time.monotonic() + REQUEST_SECONDS
    while unknown := set(topics) - _topics_of(settings, admin).keys():
        for topic in unknown:
            if _is_hidden(admin, topic):
                raise ConfigurationError(
                    f"Kafka at {settings.bootstrap_servers} has created the topic {topic}, and "
                    f"does not show it: this user lacks {Permission(DESCRIBE, 'topic', topic)} "
                    "(SECURITY.md)"
                )
        if time.monotonic() > deadline:
            raise Unavailable(
                f"Kafka at {settings.bootstrap_servers} has created {', '.join(sorted(unknown))} "
                f"and does not know them {REQUEST_SECONDS:.0f} s later"
            )
        time.sleep(0.02)


def _topics_of(
    settings: KafkaSettings, admin: AdminClient, causes: Sequence[KafkaError] = ()
) -> dict[str, TopicMetadata]:
    """Topic → metadata, for all visible topics; raises Unavailable if Kafka does not answer."""
    try:
        return dict(admin.list_topics(timeout=REQUEST_SECONDS).topics)
    except KafkaException as error:
        admin.poll(0)  # serves error_cb
        raise unavailable(settings, error, causes) from None
