"""The metrics port of a process that consumes clicks: health and consumer lag."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from types import MappingProxyType

from nextclick.shared.kafka import ClickConsumer, LagMonitor
from nextclick.shared.kafka.lag import LagWatch
from nextclick.shared.runtime.health import Check, HealthServer
from nextclick.shared.runtime.heartbeat import HEARTBEAT, Heartbeat
from nextclick.shared.runtime.settings import KafkaSettings


@contextlib.contextmanager
def health_server(
    port: int,
    setting: str,
    kafka: KafkaSettings,
    group_id: str,
    consumer: ClickConsumer,
    ready: Callable[[LagMonitor], dict[str, Check]],
    loops: Mapping[str, Heartbeat] = MappingProxyType({"loop": HEARTBEAT}),
    not_deciding: Collection[str] = (),
) -> Iterator[None]:
    """Serve /metrics, /healthz and /readyz, and measure the lag, within the context.

    port 0: do nothing. ready: makes the readiness checks, given a monitor of the group. loops: all
    of them must beat. not_deciding: see `HealthServer`. Raises ConfigurationError that names
    `setting` if the port cannot be bound.
    """
    if port == 0:
        yield
        return
    monitor = LagMonitor(kafka, kafka.clicks_topic, group_id)
    alive = {name: heartbeat.check for name, heartbeat in loops.items()}
    server = HealthServer(
        port, setting, alive=alive, ready=ready(monitor), not_deciding=not_deciding
    )
    lag = LagWatch(monitor, lambda: set(consumer.assignment))
    lag.start()
    try:
        yield
    finally:
        lag.stop()
        server.close()
