"""The live brokers of a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient


@dataclass(frozen=True)
class Brokers:
    """The brokers of a cluster that are live now."""

    cluster_id: str
    addresses: frozenset[str]
    """host:port of each, as advertised to clients."""


def live_brokers(bootstrap_servers: str) -> Brokers | None:
    """The live brokers of a cluster; None if it does not answer within a second."""
    no_logs: dict[str, Any] = {"log_level": 0, "error_cb": lambda _: None}
    admin = AdminClient({"bootstrap.servers": bootstrap_servers, **no_logs})
    try:
        metadata = admin.list_topics(timeout=1.0)
    except KafkaException:
        return None
    addresses = (f"{broker.host}:{broker.port}" for broker in metadata.brokers.values())
    return Brokers(metadata.cluster_id or "", frozenset(addresses))
