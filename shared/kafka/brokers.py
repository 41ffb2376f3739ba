"""The brokers themselves."""

from __future__ import annotations

from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient


def live_brokers(bootstrap_servers: str, timeout: float = 1.0) -> set[str]:
    """Where the brokers that serve now are, as the cluster says; nowhere if it is away."""
    quiet: dict[str, Any] = {"log_level": 0, "error_cb": lambda _: None}
    admin = AdminClient({"bootstrap.servers": bootstrap_servers, **quiet})
    try:
        brokers = admin.list_topics(timeout=timeout).brokers
    except KafkaException:
        return set()
    return {f"{broker.host}:{broker.port}" for broker in brokers.values()}
