"""Metrics and health endpoints of a trainer, and its readiness checks."""

from __future__ import annotations

from contextlib import AbstractContextManager

from nextclick.shared.kafka import ClickConsumer, LagMonitor, health
from nextclick.shared.registry import Registry
from nextclick.shared.runtime.health import WAIT_SECONDS, Check
from nextclick.shared.runtime.settings import Settings
from nextclick.trainer.collect import EventLog


def health_server(
    settings: Settings, event_log: EventLog, registry: Registry, consumer: ClickConsumer
) -> AbstractContextManager[None]:
    """Serve the metrics port; see nextclick.shared.kafka.health.health_server."""
    return health.health_server(
        settings.trainer.metrics_port,
        "NEXTCLICK_TRAINER__METRICS_PORT",
        settings.kafka,
        settings.trainer.group_id,
        consumer,
        lambda monitor: checks(monitor, event_log, registry),
    )


def checks(monitor: LagMonitor, event_log: EventLog, registry: Registry) -> dict[str, Check]:
    """The readiness checks: what a trainer needs to log clicks and publish models."""

    def reachable() -> None:
        registry.pointer()  # raises Unavailable; an empty registry is fine

    return {
        "kafka": lambda: monitor.ping(WAIT_SECONDS),
        "event_log": event_log.check_writable,
        "registry": reachable,
    }
