"""Brokers die while they are asked about topics and groups: no process ends for that."""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from nextclick.shared.embedded import KafkaCluster
from nextclick.shared.errors import Unavailable
from nextclick.shared.kafka import GroupOffsets, ensure_topics
from nextclick.shared.kafka.group_description import describe_group_in_child
from nextclick.shared.kafka.topic_id import TopicId, describing_client
from nextclick.shared.runtime.settings import KafkaSettings
from tests.faults import children
from tests.waiting import until

pytestmark = pytest.mark.long

KILLS = 10
"""An AdminClient that is asked about groups aborts its process at the first or second."""
GROUPS = [f"asked-about-{number}" for number in range(10)]
"""Each broker coordinates some of them."""


def ask_for_the_topic(kafka: KafkaSettings) -> None:
    """By four threads, so that a request is nearly always under way."""
    topic = TopicId(kafka, kafka.clicks_topic, describing_client(kafka))
    threads = [threading.Thread(target=ask_for_ever, args=(topic.read,)) for _ in range(4)]
    for thread in threads:
        thread.start()


def ask_for_the_groups(kafka: KafkaSettings) -> None:
    groups = itertools.cycle(GROUPS)
    ask_for_ever(lambda: describe_group_in_child(kafka, next(groups), kafka.clicks_topic))


def ask_for_ever(ask: Callable[[], object]) -> None:
    """Print a line for each answer."""
    while True:
        try:
            ask()
        except Unavailable:
            continue
        sys.stdout.write("answered\n")
        sys.stdout.flush()
        time.sleep(0.005)


class Asking:
    """A process that asks all the time."""

    def __init__(self, function: Callable[[KafkaSettings], None], kafka: KafkaSettings, log: Path):
        self._log = log
        self._process = children.call(partial(function, kafka), log)

    def answers(self) -> int:
        """So many have come."""
        said = self._log.read_text() if self._log.exists() else ""
        assert self._process.is_alive(), said[-1000:]
        return said.count("answered")

    def close(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.join()


def test_brokers_are_killed_one_after_the_other(
    kafka_cluster: KafkaCluster, tmp_path: Path
) -> None:
    kafka = KafkaSettings(
        bootstrap_servers=kafka_cluster.bootstrap_servers,
        clicks_topic="asked-about",
        partitions=1,
        client_config={"reconnect.backoff.max.ms": 100},
    )
    ensure_topics(kafka, [kafka.clicks_topic])
    for name in GROUPS:
        group = GroupOffsets(kafka, kafka.clicks_topic, name)
        group.commit({0: 0})
        group.close()
    asking = [
        Asking(function, kafka, tmp_path / f"{function.__name__}.log")
        for function in (ask_for_the_topic, ask_for_the_groups)
    ]

    def wait_for_answers() -> None:
        before = [each.answers() for each in asking]

        def more() -> bool:
            return all(each.answers() > b + 4 for each, b in zip(asking, before, strict=True))

        until(more, "both have answers", 60)

    try:
        for number in range(KILLS):
            wait_for_answers()
            kafka_cluster.brokers[number % 3].kill()
            wait_for_answers()  # the other two have taken over
            kafka_cluster.repair()
        wait_for_answers()
    finally:
        for each in asking:
            each.close()
