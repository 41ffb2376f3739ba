"""Who is in a consumer group."""

from __future__ import annotations

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from nextclick.shared.kafka.client import (
    DESCRIBE,
    REQUEST_SECONDS,
    MakeClient,
    Permission,
    client_config,
    failed,
    make_client,
)
from nextclick.shared.runtime.settings import KafkaSettings


def instance_ids(
    settings: KafkaSettings, group_id: str, make_client: MakeClient = make_client
) -> set[str]:
    """The `group.instance.id` of each static member of a group (KIP-345).

    Raises Unavailable if Kafka does not answer, ConfigurationError if we may not ask.
    """
    admin = make_client(AdminClient, client_config(settings))
    described = admin.describe_consumer_groups([group_id], request_timeout=REQUEST_SECONDS)
    try:
        members = described[group_id].result().members
    except KafkaException as error:
        needed = Permission(DESCRIBE, "group", group_id)
        raise failed(settings, error.args[0], needed) from None
    return {member.group_instance_id for member in members if member.group_instance_id}
