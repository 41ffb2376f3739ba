"""Metrics and health endpoints of a trainer, and its readiness checks."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path

from nextclick.shared.errors import Unavailable
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
        lambda monitor: checks(monitor, event_log.folder, registry),
    )


def checks(monitor: LagMonitor, event_log: Path, registry: Registry) -> dict[str, Check]:
    """The readiness checks: what a trainer needs to log clicks and publish models."""

    def log_folder() -> None:
        if not os.access(event_log, os.W_OK | os.X_OK):
            raise Unavailable(f"cannot write into {event_log}; check NEXTCLICK_TRAINER__EVENT_LOG")

    def reachable() -> None:
        registry.pointer()  # raises Unavailable; an empty registry is fine

    return {
        "kafka": lambda: monitor.ping(WAIT_SECONDS),
        "event_log": log_folder,
        "registry": reachable,
    }
