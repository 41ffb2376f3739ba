"""The brokers themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient


@dataclass(frozen=True)
class Brokers:
    """The brokers of a cluster that serve now."""

    cluster_id: str
    addresses: frozenset[str]
    """host:port of each, as clients are told."""


def live_brokers(bootstrap_servers: str) -> Brokers | None:
    """Ask a cluster for its brokers; None if it does not answer within a second."""
    quiet: dict[str, Any] = {"log_level": 0, "error_cb": lambda _: None}
    admin = AdminClient({"bootstrap.servers": bootstrap_servers, **quiet})
    try:
        metadata = admin.list_topics(timeout=1.0)
    except KafkaException:
        return None
    addresses = (f"{broker.host}:{broker.port}" for broker in metadata.brokers.values())
    return Brokers(metadata.cluster_id or "", frozenset(addresses))
