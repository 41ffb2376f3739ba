"""The metrics port of a process that consumes clicks: health and consumer lag."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from nextclick.shared.kafka import ClickConsumer, LagMonitor
from nextclick.shared.kafka.lag import LagWatch
from nextclick.shared.runtime.health import Check, HealthServer
from nextclick.shared.runtime.heartbeat import HEARTBEAT
from nextclick.shared.runtime.settings import KafkaSettings


@contextlib.contextmanager
def health_server(
    port: int,
    setting: str,
    kafka: KafkaSettings,
    group_id: str,
    consumer: ClickConsumer,
    ready: Callable[[LagMonitor], dict[str, Check]],
) -> Iterator[None]:
    """Serve /metrics, /healthz and /readyz, and measure the lag, within the context.

    port 0: do nothing. ready: makes the readiness checks, given a monitor of the group. Raises
    ConfigurationError that names `setting` if the port cannot be bound.
    """
    if port == 0:
        yield
        return
    monitor = LagMonitor(kafka, kafka.clicks_topic, group_id)
    server = HealthServer(port, setting, alive={"loop": HEARTBEAT.check}, ready=ready(monitor))
    lag = LagWatch(monitor, lambda: set(consumer.assignment))
    lag.start()
    try:
        yield
    finally:
        lag.stop()
        server.close()
