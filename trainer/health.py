"""What a trainer says of itself on its metrics port, and when it is ready."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path

from shared import health
from shared.errors import Unavailable
from shared.health import WAIT_SECONDS, Check
from shared.kafka import ClickConsumer, LagMonitor
from shared.registry import Registry
from shared.settings import Settings
from trainer.event_log import EventLog


def served(
    settings: Settings, event_log: EventLog, registry: Registry, consumer: ClickConsumer
) -> AbstractContextManager[None]:
    """See shared.health.served."""
    return health.served(
        settings.trainer.metrics_port,
        "NEXTCLICK_TRAINER__METRICS_PORT",
        settings.kafka,
        settings.trainer.group_id,
        consumer,
        lambda monitor: checks(monitor, event_log.folder, registry),
    )


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
