"""Metrics and health endpoints of a worker, and its readiness checks."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from functools import partial

from nextclick.services.worker.loop import Worker
from nextclick.shared.errors import Unavailable
from nextclick.shared.kafka import LagMonitor, health
from nextclick.shared.runtime.health import WAIT_SECONDS, Check
from nextclick.shared.runtime.settings import Settings

ACKNOWLEDGED_SECONDS = 5.0
"""Kafka acknowledges answers within so long; a leader that lost the others answers reads only."""

NOT_DECIDING = ("experiment",)
"""Without its second arm, a worker answers every click nonetheless."""


def health_server(settings: Settings, worker: Worker, items: Check) -> AbstractContextManager[None]:
    """Serve the metrics port; see nextclick.shared.kafka.health.health_server."""
    return health.health_server(
        settings.worker.metrics_port,
        "NEXTCLICK_WORKER__METRICS_PORT",
        settings.kafka,
        settings.worker.group_id,
        worker.consumer,
        partial(checks, worker, items),
        not_deciding=NOT_DECIDING,
    )


def checks(worker: Worker, items: Check, monitor: LagMonitor) -> dict[str, Check]:
    """The readiness checks: what a worker needs to answer clicks."""

    def model() -> None:
        if worker.slot.model is None:
            raise Unavailable("there is no model yet: the registry is empty or cannot be reached")

    def partitions() -> None:
        if not (worker.consumer.assignment or worker.consumer.joined):
            raise Unavailable(
                "the group has not assigned partitions yet; the worker joins after the first model"
            )

    def kafka() -> None:
        monitor.ping(WAIT_SECONDS)
        since = worker.open_since
        if since is not None and time.monotonic() - since > ACKNOWLEDGED_SECONDS:
            raise Unavailable(
                f"Kafka has acknowledged no answer for {time.monotonic() - since:.0f} s: too few "
                "brokers may be there for min.insync.replicas, or the outcome of a transaction is "
                "not known yet"
            )

    return {
        "model": model,
        "partitions": partitions,
        "items": items,
        "experiment": worker.slot.check_arms,
        "redis": worker.sessions.ping,
        "kafka": kafka,
    }
