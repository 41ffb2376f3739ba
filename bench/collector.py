"""Throughput of one collector on a filled topic, beside plain consuming of the same messages.

    nextclick bench collector --clicks 500k

The plain consumer, librdkafka by confluent_kafka with the collector's fetch settings, polls all
messages and does nothing with them. The collector, in this process, too, decodes them and appends
them to a new event log in a folder. They take turns. Clocks start when a group has assigned the
partitions.
"""

from __future__ import annotations

import statistics
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import Consumer, KafkaException

from nextclick.bench.round_trip import Servers
from nextclick.bench.traffic import fill
from nextclick.shared.errors import NextclickError
from nextclick.shared.kafka.client import BULK
from nextclick.shared.runtime.garbage_collector import freeze_garbage_collector
from nextclick.shared.runtime.settings import KafkaSettings, Settings, TrainerSettings
from nextclick.trainer.collect import EventLog
from nextclick.trainer.collect.collector import FLUSH_MESSAGES, catch_up
from nextclick.trainer.collect.main import make_collector

ITEMS = 10_000
USERS = 50_000


@dataclass(frozen=True)
class Rate:
    """Clicks per second of the clock, and of the process's CPU time in all its threads."""

    per_second: float
    per_cpu_second: float


@dataclass(frozen=True)
class Row:
    """Medians over the rounds."""

    clicks: int
    plain: Rate
    collector: Rate
    ratio: float
    """The collector's rate as a share of plain consuming in the same round, by the clock."""
    cpu_ratio: float
    """The same by CPU time."""
    files: int
    bytes_per_click: float


def measure(servers: Servers, clicks: int, rounds: int) -> Row:
    """Publish so many clicks, and read them with both in turn."""
    kafka = servers.kafka("collector")
    fill(kafka, ITEMS, USERS, clicks)
    freeze_garbage_collector()  # as a collector does
    plain, collector = [], []
    for number in range(rounds):
        plain.append(_consume(kafka, f"plain-{number}", clicks))
        folder = servers.folder / f"event_log-{number}"
        collector.append(_collect(kafka, f"collector-{number}", folder, clicks))
    files = list(folder.glob("*.parquet"))
    return Row(
        clicks,
        _median(plain),
        _median(collector),
        statistics.median(
            c.per_second / p.per_second for c, p in zip(collector, plain, strict=True)
        ),
        statistics.median(
            c.per_cpu_second / p.per_cpu_second for c, p in zip(collector, plain, strict=True)
        ),
        len(files),
        sum(file.stat().st_size for file in files) / clicks,
    )


def _consume(kafka: KafkaSettings, group: str, clicks: int) -> Rate:
    assigned = threading.Event()
    consumer = Consumer(
        {
            "bootstrap.servers": kafka.bootstrap_servers,
            "group.id": group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            **BULK,
        }
    )
    consumer.subscribe([kafka.clicks_topic], on_assign=lambda *_: assigned.set())
    try:
        read = 0
        while not assigned.is_set():
            read += _count(consumer, 0.1)
        began, cpu = time.perf_counter(), time.process_time()
        while read < clicks:
            read += _count(consumer, 0.5)
        return _rate(clicks, began, cpu)
    finally:
        consumer.close()


def _count(consumer: Consumer, timeout: float) -> int:
    messages = consumer.consume(FLUSH_MESSAGES, timeout)
    for message in messages:
        if (error := message.error()) is not None:
            raise KafkaException(error)
    return len(messages)


def _collect(kafka: KafkaSettings, group: str, folder: Path, clicks: int) -> Rate:
    trainer = TrainerSettings(group_id=group, event_log=str(folder))
    settings = Settings().model_copy(update={"kafka": kafka, "trainer": trainer})
    stop = threading.Event()
    collector = make_collector(settings, stop)
    try:
        while not collector.consumer.assignment:
            collector.step()
        began, cpu = time.perf_counter(), time.process_time()
        catch_up(collector, stop)
        rate = _rate(clicks, began, cpu)
    finally:
        collector.consumer.close()
    if (logged := EventLog(str(folder)).count()) != clicks:
        raise NextclickError(f"{clicks} clicks were sent and {logged} logged")
    return rate


def _rate(clicks: int, began: float, cpu: float) -> Rate:
    return Rate(
        clicks / (time.perf_counter() - began),
        clicks / (time.process_time() - cpu),
    )


def _median(rates: list[Rate]) -> Rate:
    return Rate(
        statistics.median(rate.per_second for rate in rates),
        statistics.median(rate.per_cpu_second for rate in rates),
    )
