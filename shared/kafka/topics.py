"""The topics themselves."""

from __future__ import annotations

from collections.abc import Iterable

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from shared.errors import ConfigurationError
from shared.kafka.client import REQUEST_SECONDS, client_config, make_client, unavailable
from shared.settings import KafkaSettings


def ensure_topics(settings: KafkaSettings, topics: Iterable[str]) -> list[str]:
    """Create the topics that are missing and return their names; existing ones stay as they are.

    Raises Unavailable if Kafka does not answer, ConfigurationError if it refuses.
    """
    heard: list[KafkaError] = []
    # The first to connect, so it says what is wrong with login and TLS: in the error, not the log.
    ours = {"error_cb": heard.append, "log_level": 0}
    admin = make_client(AdminClient, {**ours, **client_config(settings)})
    try:
        existing = admin.list_topics(timeout=REQUEST_SECONDS).topics
    except KafkaException as error:
        admin.poll(0)
        raise unavailable(settings, error, heard) from None
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
                raise unavailable(settings, error) from None
            raise ConfigurationError(
                f"Kafka refused to create the topic {topic}: {error.args[0].str()}; "
                "check NEXTCLICK_KAFKA__PARTITIONS and __REPLICATION_FACTOR, or create it yourself"
            ) from None
    return created
