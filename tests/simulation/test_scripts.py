"""The simulated Kafka beside a real one: the same scripts, and the same lines of what was seen."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    NewPartitions,
    NewTopic,
)

from tests.backend import Backend
from tests.simulation import consumer, producer
from tests.simulation.cluster import Cluster
from tests.simulation.faults import AT_LEAST_ONCE, Faults, scenario
from tests.simulation.scheduler import World
from tests.simulation.scripts import SCRIPTS, Entry, Member, observe
from tests.waiting import until

GUARANTEES = Path(__file__).parents[2] / "docs" / "guarantees.md"
AT_ONCE = 8
"""Scripts on the real Kafka, most of which wait most of the time."""


class SimulatedLab:
    """One world, in which every client is a process; no faults."""

    topic, group = "topic", "group"

    def __init__(self, entry: Entry) -> None:
        self.lines: list[str] = []
        self.members: list[Member] = []
        self._entry = entry
        self._world = World()
        drawn = replace(scenario(0, AT_LEAST_ONCE), slowest=0.004, rates=(), focus="")
        faults = Faults(self._world, drawn)
        self._cluster = Cluster(
            self._world,
            faults,
            {self.topic: entry.partitions},
            0.0,
            on_appended=lambda *_: None,
            on_decided=lambda *_: None,
            on_committed=lambda _: None,
        )
        self._process = self._world.process("script")

    def observe(self) -> list[str]:
        seen: list[str] = []

        def run() -> None:
            try:
                seen.extend(observe(self, self._entry))
            finally:
                self._world.stopped = True

        thread = self._process.thread(run)
        thread.start()
        self._world.run()
        self._world.close()
        if thread.failure is not None:
            raise thread.failure
        return seen

    def make_consumer(self, config: dict[str, Any]) -> Any:
        return consumer.Consumer(self._world.process("consumer"), self._cluster, config)

    def make_producer(self, config: dict[str, Any]) -> Any:
        return producer.Producer(self._world.process("producer"), self._cluster, config)

    def make_admin(self) -> Any:
        return consumer.Admin(self._world.process("admin"), self._cluster)

    def now(self) -> float:
        return self._world.now

    def sleep(self, seconds: float) -> None:
        self._process.sleep(seconds)

    def add_partitions(self, count: int) -> None:
        self._cluster.add_partitions(self.topic, count)

    def remove_records(self, partition: int, before: int) -> None:
        self._cluster.remove_records((self.topic, partition), before)

    def delete_topic(self) -> None:
        self._cluster.delete(self.topic)

    def create_topic(self, partitions: int) -> None:
        self._cluster.create(self.topic, partitions)


class RealLab:
    """confluent_kafka's own clients, with a topic and a group that nobody else has."""

    def __init__(self, entry: Entry, servers: str, name: str) -> None:
        self.topic = self.group = f"script-{name}"
        self.lines: list[str] = []
        self.members: list[Member] = []
        self._entry = entry
        self._servers: dict[str, Any] = {"bootstrap.servers": servers}
        self._admin = AdminClient(self._servers)

    def observe(self) -> list[str]:
        self.create_topic(self._entry.partitions)
        try:
            return observe(self, self._entry)
        finally:
            self.delete_topic()

    def make_consumer(self, config: dict[str, Any]) -> Any:
        quiet = {"log_level": 0}
        return Consumer({"group.id": self.group, **quiet, **self._servers, **config})

    def make_producer(self, config: dict[str, Any]) -> Any:
        return Producer({"enable.idempotence": True, "log_level": 0, **self._servers, **config})

    def make_admin(self) -> Any:
        return self._admin

    def now(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def add_partitions(self, count: int) -> None:
        total = self._count() + count
        (future,) = self._admin.create_partitions([NewPartitions(self.topic, total)]).values()
        future.result()
        until(lambda: self._count() == total, "the partitions are there")

    def remove_records(self, partition: int, before: int) -> None:
        place = TopicPartition(self.topic, partition, before)
        (future,) = self._admin.delete_records([place]).values()
        future.result()

    def delete_topic(self) -> None:
        (future,) = self._admin.delete_topics([self.topic]).values()
        future.result()
        until(lambda: self._count() == 0, "the topic has gone")

    def create_topic(self, partitions: int) -> None:
        def created() -> bool:
            (future,) = self._admin.create_topics([NewTopic(self.topic, partitions, 1)]).values()
            try:
                future.result()
            except KafkaException as error:  # of the topic that is being deleted
                if "exists" not in error.args[0].str():
                    raise
            return self._count() == partitions

        until(created, "the topic is there")

    def _count(self) -> int:
        found = self._admin.list_topics(timeout=10).topics.get(self.topic)
        return len(found.partitions) if found is not None else 0


@pytest.fixture(scope="module")
def on_real_kafka(
    request: pytest.FixtureRequest, backend: Backend
) -> Iterator[dict[str, Future[list[str]]]]:
    """What each script that is asked for sees, on the tests' Kafka. They run at once."""
    asked_for: list[Entry] = [
        cast(Entry, item.callspec.params["entry"])
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.module is request.module
        and "on_real_kafka" in item.fixturenames
    ]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {
            entry.name: pool.submit(
                RealLab(entry, backend.bootstrap_servers, f"{number}-{time.time_ns()}").observe
            )
            for number, entry in enumerate(asked_for)
        }


def test_the_documentation_names_every_script() -> None:
    documented = set(re.findall(r"`(\w+)`", GUARANTEES.read_text()))
    assert {entry.run.__name__ for entry in SCRIPTS} <= documented


@pytest.mark.parametrize(
    "entry",
    [pytest.param(e, id=e.name, marks=[pytest.mark.long] * e.is_long) for e in SCRIPTS],
)
def test_both_look_alike(entry: Entry, on_real_kafka: dict[str, Future[list[str]]]) -> None:
    assert SimulatedLab(entry).observe() == on_real_kafka[entry.name].result()
