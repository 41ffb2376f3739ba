"""What a trainer says of itself on its metrics port, and when it is ready."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from shared.errors import Unavailable
from shared.health import WAIT_SECONDS, Check, HealthServer
from shared.heartbeat import HEART
from shared.kafka import ClickConsumer, LagMonitor
from shared.lag import LagWatch
from shared.registry import Registry
from shared.settings import Settings
from trainer.event_log import EventLog


@contextlib.contextmanager
def served(
    settings: Settings, event_log: EventLog, registry: Registry, consumer: ClickConsumer
) -> Iterator[None]:
    """Serve /metrics, /healthz and /readyz meanwhile, unless the port is 0.

    Raises ConfigurationError if the port cannot be had.
    """
    port, kafka = settings.trainer.metrics_port, settings.kafka
    if port == 0:
        yield
        return
    monitor = LagMonitor(kafka, kafka.clicks_topic, settings.trainer.group_id)
    server = HealthServer(
        port,
        "NEXTCLICK_TRAINER__METRICS_PORT",
        alive={"loop": HEART.check},
        ready=checks(monitor, event_log.folder, registry),
    )
    lag = LagWatch(monitor, lambda: set(consumer.assignment))
    lag.start()
    try:
        yield
    finally:
        lag.stop()
        server.close()


def checks(monitor: LagMonitor, event_log: Path, registry: Registry) -> dict[str, Check]:
    """Name what must be there so that clicks can be logged and a model published."""

    def log_folder() -> None:
        if not os.access(event_log, os.W_OK | os.X_OK):
            raise Unavailable(f"cannot write into {event_log}; check NEXTCLICK_TRAINER__EVENT_LOG")

    def reachable() -> None:
        registry.pointer()  # none yet is an answer, too

    return {
        "kafka": lambda: monitor.ping(WAIT_SECONDS),
        "event_log": log_folder,
        "registry": reachable,
    }
