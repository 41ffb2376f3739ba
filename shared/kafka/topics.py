"""The topics themselves."""

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
    FORBIDDEN,
    REQUEST_SECONDS,
    SEE,
    Permission,
    client_config,
    failed,
    lacking,
    make_client,
    unavailable,
)
from nextclick.shared.runtime.settings import KafkaSettings


def ensure_topics(settings: KafkaSettings, topics: Iterable[str]) -> list[str]:
    """Create the topics that are missing and return their names; existing ones stay as they are.

    Raises Unavailable if Kafka does not answer, ConfigurationError if it refuses.
    """
    heard: list[KafkaError] = []
    # The first to connect, so it says what is wrong with login and TLS: in the error, not the log.
    ours = {"error_cb": heard.append, "log_level": 0}
    admin = make_client(AdminClient, {**ours, **client_config(settings)})
    existing = _topics_of(settings, admin, heard)
    new = [
        NewTopic(
            topic,
            num_partitions=settings.partitions,
            replication_factor=settings.replication_factor,
            config=_config(settings),
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
                raise _may_not(settings, admin, topic, error.args[0]) from None
            if error.args[0].retriable() or code == KafkaError._TIMED_OUT:
                raise unavailable(settings, error) from None
            raise ConfigurationError(
                f"Kafka refused to create the topic {topic}: {error.args[0].str()}; "
                "check NEXTCLICK_KAFKA__PARTITIONS and __REPLICATION_FACTOR, or create it yourself"
            ) from None
    _wait_until_known(settings, admin, created)
    return created


def _may_not(
    settings: KafkaSettings, admin: AdminClient, topic: str, refusal: KafkaError
) -> ConfigurationError | Unavailable:
    """Which permission is missing: a topic that is not listed may only be hidden from us."""
    if _is_hidden(admin, topic):
        return failed(settings, refusal, Permission(SEE, "topic", topic))
    return ConfigurationError(
        f"Kafka at {settings.bootstrap_servers} has no topic {topic}, and "
        f"{lacking(refusal, Permission('Create', 'topic', topic))}; `nextclick topics create` "
        "creates it for whoever has it"
    )


def _is_hidden(admin: AdminClient, topic: str) -> bool:
    """Whether we may not see a topic, be it there or not."""
    asked = admin.describe_topics(TopicCollection([topic]), request_timeout=REQUEST_SECONDS)
    try:
        asked[topic].result()
    except KafkaException as error:
        return bool(error.args[0].code() == KafkaError.TOPIC_AUTHORIZATION_FAILED)
    return False


def _config(settings: KafkaSettings) -> dict[str, str]:
    config = {"retention.ms": str(int(settings.retention_hours * 3_600_000))}
    if settings.min_insync_replicas:
        config["min.insync.replicas"] = str(settings.min_insync_replicas)
    return config


def max_message_bytes(settings: KafkaSettings, topic: str) -> int | None:
    """How large a message of this topic may be (max.message.bytes); None if we may not know.

    Raises Unavailable if Kafka does not answer.
    """
    admin = make_client(AdminClient, client_config(settings))
    asked = ConfigResource(ConfigResource.Type.TOPIC, topic)
    try:
        config = admin.describe_configs([asked], request_timeout=REQUEST_SECONDS)[asked].result()
    except KafkaException as error:
        if error.args[0].code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:  # DescribeConfigs
            return None
        raise unavailable(settings, error) from None
    return int(config["max.message.bytes"].value)


def _wait_until_known(settings: KafkaSettings, admin: AdminClient, topics: Sequence[str]) -> None:
    """Return once the brokers name these topics: a new topic is known to the controller first.

    Raises Unavailable if they do not within REQUEST_SECONDS.
    """
    deadline = time.monotonic() + REQUEST_SECONDS
    while unknown := set(topics) - _topics_of(settings, admin).keys():
        for topic in unknown:
            if _is_hidden(admin, topic):
                raise ConfigurationError(
                    f"Kafka at {settings.bootstrap_servers} has created the topic {topic}, and "
                    f"does not show it: this user lacks {Permission(SEE, 'topic', topic)} "
                    "(SECURITY.md)"
                )
        if time.monotonic() > deadline:
            raise Unavailable(
                f"Kafka at {settings.bootstrap_servers} has created {', '.join(sorted(unknown))} "
                f"and does not know them {REQUEST_SECONDS:.0f} s later"
            )
        time.sleep(0.02)


def _topics_of(
    settings: KafkaSettings, admin: AdminClient, heard: Sequence[KafkaError] = ()
) -> dict[str, TopicMetadata]:
    """What the cluster says of each of its topics; raises Unavailable if it does not answer."""
    try:
        return dict(admin.list_topics(timeout=REQUEST_SECONDS).topics)
    except KafkaException as error:
        admin.poll(0)  # serves error_cb
        raise unavailable(settings, error, heard) from None
