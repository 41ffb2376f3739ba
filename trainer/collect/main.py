"""The collector: a process of its own (`nextclick collector`), or a thread of the trainer's.

Nothing here imports torch, so a collector starts in a second and needs little memory. Several share
the topic as one consumer group; they may write the same event log.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator

from nextclick.shared.kafka import ClickConsumer, LagMonitor, ensure_topics, retained_offsets
from nextclick.shared.kafka.health import health_server
from nextclick.shared.kafka.schema_registry import framed_reader
from nextclick.shared.runtime.anomalies import click_rules
from nextclick.shared.runtime.background import BackgroundThread
from nextclick.shared.runtime.garbage_collector import freeze_garbage_collector
from nextclick.shared.runtime.health import WAIT_SECONDS, Check
from nextclick.shared.runtime.heartbeat import HEARTBEAT, Heartbeat
from nextclick.shared.runtime.retry import RetryUntilAvailable, ShutdownRequested
from nextclick.shared.runtime.settings import Settings
from nextclick.shared.schemas import Click
from nextclick.trainer.collect.collector import Collector, catch_up
from nextclick.trainer.collect.event_log import EventLog

log = logging.getLogger(__name__)

METRICS_PORT = "NEXTCLICK_TRAINER__METRICS_PORT"
_STOP_SECONDS = 20.0
"""Longest wait for a collector's thread to end; a crash in the middle of its step loses nothing."""


def run(settings: Settings, stop: threading.Event) -> None:
    """Collect until `stop` is set.

    Raises ConfigurationError or Unavailable if Kafka or the event log is not usable at the start.
    """
    with _serving(settings, stop) as collector:
        freeze_garbage_collector()
        collect(collector, stop)


def collect_once(settings: Settings, stop: threading.Event) -> None:
    """Collect up to the present end of the topic, and maintain the event log; raises as `run`."""
    with _serving(settings, stop) as collector:
        try:
            catch_up(collector, stop)
            collector.maintain()
        except ShutdownRequested:
            _log_stopped()


def collect(collector: Collector, stop: threading.Event) -> None:
    """Collect until `stop` is set, and write what was read by then."""
    try:
        while not stop.is_set():
            collector.step()
        collector.flush()
    except ShutdownRequested:
        _log_stopped()


def make_collector(
    settings: Settings, stop: threading.Event, heartbeat: Heartbeat = HEARTBEAT
) -> Collector:
    """A collector with its own consumer and event log; raises as `run`."""
    trainer, kafka, topic = settings.trainer, settings.kafka, settings.kafka.clicks_topic
    event_log = EventLog(trainer.event_log)
    until_available = RetryUntilAvailable(stop, log, heartbeat=heartbeat)
    read_framed = framed_reader(settings.schema_registry, Click, until_available)
    ensure_topics(kafka, [topic])
    consumer = ClickConsumer(
        kafka,
        topic,
        trainer.group_id,
        seek=lambda partitions: collector.starts(
            lambda: retained_offsets(kafka, topic), partitions
        ),
        instance_id=trainer.instance_id,
        bulk=True,
    )
    collector = Collector(
        consumer,
        event_log,
        until_available,
        min(trainer.flush_seconds, trainer.delta_seconds or trainer.flush_seconds),
        trainer.keep_days,
        click_rules(settings.clicks, read_framed),
        heartbeat=heartbeat,
    )
    return collector


def checks(monitor: LagMonitor, event_log: EventLog) -> dict[str, Check]:
    """The readiness checks: what is needed to log clicks."""
    return {"kafka": lambda: monitor.ping(WAIT_SECONDS), "event_log": event_log.check_writable}


def collector_thread(collector: Collector, stop: threading.Event) -> BackgroundThread:
    """Collects in a thread of its own, until `stop` is set; leaving its context sets `stop`.

    The thread owns consumer and event log of its collector, and closes the consumer.
    """

    def run(stop: threading.Event) -> None:
        try:
            collect(collector, stop)
        finally:
            collector.consumer.close()

    return BackgroundThread("collector", run, stop, _STOP_SECONDS)


@contextlib.contextmanager
def _serving(settings: Settings, stop: threading.Event) -> Iterator[Collector]:
    """A collector with its metrics port; its consumer leaves the group at the end."""
    collector = make_collector(settings, stop)
    try:
        with health_server(
            settings.trainer.metrics_port,
            METRICS_PORT,
            settings.kafka,
            settings.trainer.group_id,
            collector.consumer,
            lambda monitor: checks(monitor, collector.event_log),
        ):
            yield collector
    finally:
        collector.consumer.close()


def _log_stopped() -> None:
    log.info("stopped while waiting for a server; unlogged clicks will be read again")
