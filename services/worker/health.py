"""What a worker says of itself on its metrics port, and when it is ready."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from services.worker.loop import Worker
from shared.errors import Unavailable
from shared.health import WAIT_SECONDS, Check, HealthServer
from shared.heartbeat import HEART
from shared.kafka import LagMonitor
from shared.lag import LagWatch
from shared.settings import Settings


@contextlib.contextmanager
def served(settings: Settings, worker: Worker) -> Iterator[None]:
    """Serve /metrics, /healthz and /readyz meanwhile, unless the port is 0.

    Raises ConfigurationError if the port cannot be had.
    """
    port, kafka = settings.worker.metrics_port, settings.kafka
    if port == 0:
        yield
        return
    monitor = LagMonitor(kafka, kafka.clicks_topic, settings.worker.group_id)
    server = HealthServer(
        port,
        "NEXTCLICK_WORKER__METRICS_PORT",
        alive={"loop": HEART.check},
        ready=checks(worker, monitor),
    )
    lag = LagWatch(monitor, lambda: set(worker.consumer.assignment))
    lag.start()
    try:
        yield
    finally:
        lag.stop()
        server.close()


def checks(worker: Worker, monitor: LagMonitor) -> dict[str, Check]:
    """Name what must be there before a click can be answered."""

    def model() -> None:
        if worker.slot.model is None:
            raise Unavailable("there is no model yet: the registry is empty, or away")

    def partitions() -> None:
        if not (worker.consumer.assignment or worker.consumer.joined):
            raise Unavailable(
                "the group has not assigned partitions yet; it is joined once a model is there"
            )

    return {
        "model": model,
        "partitions": partitions,
        "redis": worker.sessions.ping,
        "kafka": lambda: monitor.ping(WAIT_SECONDS),
    }
