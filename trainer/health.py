"""Metrics and health endpoints of a trainer, and its readiness checks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from nextclick.shared.kafka import LagMonitor
from nextclick.shared.kafka import health as kafka_health
from nextclick.shared.registry import Registry
from nextclick.shared.runtime.health import Check, HealthServer
from nextclick.shared.runtime.heartbeat import HEARTBEAT
from nextclick.shared.runtime.settings import Settings
from nextclick.trainer.collect import EventLog
from nextclick.trainer.collect import main as collecting
from nextclick.trainer.collect.collector import Collector


@contextlib.contextmanager
def health_server(
    settings: Settings, event_log: EventLog, registry: Registry, collector: Collector | None
) -> Iterator[None]:
    """Serve the metrics port within the context; of a trainer that collects, with its lag.

    Raises ConfigurationError if the port cannot be bound.
    """
    port = settings.trainer.metrics_port
    if port == 0:
        yield
    elif collector is None:
        server = HealthServer(
            port,
            collecting.METRICS_PORT,
            alive={"loop": HEARTBEAT.check},
            ready=checks(event_log, registry),
        )
        try:
            yield
        finally:
            server.close()
    else:
        with kafka_health.health_server(
            port,
            collecting.METRICS_PORT,
            settings.kafka,
            settings.trainer.group_id,
            collector.consumer,
            lambda monitor: checks(event_log, registry, monitor),
            {"loop": HEARTBEAT, "collector": collector.heartbeat},
        ):
            yield


def checks(
    event_log: EventLog, registry: Registry, monitor: LagMonitor | None = None
) -> dict[str, Check]:
    """The readiness checks: what is needed to publish models and, with a monitor, to log clicks."""

    def reachable() -> None:
        registry.pointer()  # raises Unavailable; an empty registry is fine

    if monitor is None:
        return {"event_log": event_log.check_writable, "registry": reachable}
    return collecting.checks(monitor, event_log) | {"registry": reachable}
