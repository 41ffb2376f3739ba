"""What runs in the processes: a worker and a trainer, put together as their main modules do it."""

from __future__ import annotations

import contextlib
import logging
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, cast

from confluent_kafka import Consumer as RealConsumer
from confluent_kafka.admin import AdminClient

from nextclick.services.worker.arms import ArmScorer
from nextclick.services.worker.at_least_once import AtLeastOnce
from nextclick.services.worker.decide import AnswerTopic
from nextclick.services.worker.exactly_once import ExactlyOnce
from nextclick.services.worker.guarantee import Batch, Guarantee
from nextclick.services.worker.guard import Guard
from nextclick.services.worker.loop import Worker
from nextclick.shared.errors import NextclickError
from nextclick.shared.kafka import (
    ClickConsumer,
    Publisher,
    TransactionalPublisher,
    retained_offsets,
)
from nextclick.shared.kafka.background import BackgroundCall
from nextclick.shared.kafka.group_description import describe_group
from nextclick.shared.model import Checkpoint, Ranking, Scorer, Vocabulary
from nextclick.shared.redis import RedisSessions
from nextclick.shared.registry import ModelSlot, ServedModel
from nextclick.shared.runtime.retry import RetryUntilAvailable, ShutdownRequested
from nextclick.shared.runtime.settings import ClickSettings, KafkaSettings, Settings
from nextclick.shared.schemas import ScoredItem
from nextclick.trainer.collect import EventLog
from nextclick.trainer.collect.collector import Collector
from nextclick.trainer.learn.main import Learner
from tests.simulation.bucket import Bucket, BucketClient
from tests.simulation.cluster import Cluster
from tests.simulation.consumer import Admin, Consumer
from tests.simulation.event_log import Disk, MemoryEventLog, disk_full
from tests.simulation.faults import EXACTLY_ONCE, Faults, Scenario
from tests.simulation.models import fingerprint, registry_on, trained
from tests.simulation.network import Server
from tests.simulation.oracle import Oracle
from tests.simulation.producer import Producer
from tests.simulation.redis import Lists, RedisClient
from tests.simulation.scheduler import Process, StopEvent, World

COOPERATIVE, RANGE = "cooperative-sticky", "range"
KAFKA = KafkaSettings(bootstrap_servers="simulated:9092")
SETTINGS = {
    COOPERATIVE: KAFKA,
    RANGE: KafkaSettings(
        bootstrap_servers="simulated:9092",
        client_config={"partition.assignment.strategy": RANGE},
    ),
}
FULL_DISK_ONE_IN = 40
POLL_SECONDS = 1.0
TRAINER = Settings(clicks=ClickSettings(max_per_minute=0))
"""All clicks count, whoever makes them."""

log = logging.getLogger("nextclick.simulation")


def items_of(content: str, history: Sequence[str]) -> list[str]:
    """What a model recommends: something that depends on what it is and the history only."""
    number = zlib.crc32(f"{content} {' '.join(history)}".encode())
    return [str((number >> shift) % 50) for shift in (0, 8, 16)]


class _Scorer:
    """A model; scoring takes time."""

    def __init__(
        self, content: str, wait: Callable[[], None], vocabulary: Vocabulary | None = None
    ) -> None:
        self.vocabulary = vocabulary
        self._content = content
        self._wait = wait

    def recommend(
        self, histories: Sequence[Sequence[str]], withheld: frozenset[str] = frozenset()
    ) -> list[Ranking]:
        self._wait()
        return [
            Ranking([ScoredItem(item, 0.5) for item in items_of(self._content, history)], None)
            for history in histories
        ]


class _Slot:
    """Holds another model every `swap_seconds`; the same for good if that is 0."""

    arms = None
    """No experiment runs."""

    def __init__(self, process: Process, faults: Faults) -> None:
        self._process = process
        self._faults = faults
        self._every = faults.scenario.swap_seconds
        # Each worker loads a version at a time of its own.
        self._late = self._every and faults.latency()
        self._model = self._load(1)

    @property
    def model(self) -> ServedModel:
        if self._every:
            number = 1 + int(max(0.0, self._process.world.now - self._late) / self._every)
            if self._model.version != f"v{number}":
                self._model = self._load(number)
        return self._model

    def _load(self, number: int) -> ServedModel:
        version = f"v{number}"
        return ServedModel(version, cast(Any, _Scorer(version, self._wait)))

    def _wait(self) -> None:
        if self._every:
            self._process.sleep(self._faults.latency())


@dataclass
class Programs:
    """What the processes of a history share."""

    world: World
    faults: Faults
    oracle: Oracle
    cluster: Cluster
    redis: Server
    lists: Lists
    disk: Disk
    bucket_server: Server
    bucket: Bucket
    slots: dict[str, ModelSlot] = field(default_factory=dict)
    """By the name of the process, of workers that follow a registry."""
    _retrainings: int = 1

    @property
    def _scenario(self) -> Scenario:
        return self.faults.scenario

    def work(self, process: Process, instance: str, stop: StopEvent) -> None:
        """As services.worker.main does it."""
        worker = self._worker(process, instance, stop)
        try:
            worker.run()
            self.world.say(process.name, "has stopped")
        finally:
            if process.alive:
                worker.close()

    def train(self, process: Process, instance: str, stop: StopEvent) -> None:
        """As trainer.main does it, without retraining."""
        settings, make_client = SETTINGS[self._scenario.assignor], self._clients_of(process)
        topic = settings.clicks_topic
        consumer = ClickConsumer(
            settings,
            topic,
            "trainer",
            seek=lambda partitions: collector.starts(
                lambda: retained_offsets(settings, topic, make_client), partitions
            ),
            instance_id=instance,
            bulk=True,
            clock=process.monotonic,
            make_client=make_client,
            background=self._background_of(process),
            describe_group=partial(describe_group, make_client=make_client),
        )
        collector = Collector(
            consumer,
            cast(EventLog, MemoryEventLog(self.disk, partial(self._write, process))),
            RetryUntilAvailable(stop, log, process.monotonic),
            self._scenario.flush,
            clock=process.monotonic,
        )
        try:
            while not stop.is_set():
                collector.step()
            collector.flush()
            self.world.say(process.name, "has stopped")
        except ShutdownRequested:
            self.world.say(process.name, "has stopped while it waited")
        finally:
            if process.alive:
                consumer.close()

    def publish(self, process: Process, stop: StopEvent) -> None:
        """As trainer.main does it, in two threads: retrainings, and what is learned between them.

        Its event log has each click as soon as the topic has it.
        """
        registry = registry_on(BucketClient(process, self.bucket_server, self.bucket))
        event_log = MemoryEventLog(self.disk)
        learner = Learner(TRAINER, registry, cast(EventLog, event_log), process.wall)
        self._in_thread(process, "learner", partial(self._learn, learner, stop))
        while not stop.wait(self._scenario.swap_seconds or None):
            if self.world.now < self._scenario.quiet_after:
                model = trained(len(self._scenario.clicks), self._retrainings, event_log.state())
                self._retrainings += 1
                with contextlib.suppress(NextclickError):
                    registry.publish(model, datetime.fromtimestamp(process.wall(), UTC))

    def _learn(self, learner: Learner, stop: StopEvent) -> None:
        while not stop.wait(self._scenario.delta_seconds):
            with contextlib.suppress(NextclickError):
                learner.step()

    def _in_thread(self, process: Process, name: str, work: Callable[[], None]) -> None:
        """Run a thread of the product's own; a bug there ends the history."""

        def run() -> None:
            try:
                work()
            except Exception as bug:
                self.oracle.violations.append(f"the {name} of {process.name} ended: {bug!r}")
                self.world.stopped = True

        process.thread(run, name).start()

    def _slot(self, process: Process, stop: StopEvent) -> ModelSlot:
        """The slot of a worker that starts, with a model in it."""
        if not self._scenario.delta_seconds:
            return cast(ModelSlot, _Slot(process, self.faults))

        def make_scorer(checkpoint: Checkpoint) -> Scorer:
            wait = partial(process.sleep, self.faults.latency())
            return cast(Scorer, _Scorer(fingerprint(checkpoint), wait, checkpoint.vocabulary))

        registry = registry_on(BucketClient(process, self.bucket_server, self.bucket))
        slot = ModelSlot(registry, make_scorer, POLL_SECONDS, process.monotonic, deltas=True)
        slot.check()
        while slot.model is None and not stop.wait(POLL_SECONDS):
            slot.check()

        def follow() -> None:
            while not stop.wait(POLL_SECONDS):
                slot.check()

        self._in_thread(process, "model slot", follow)
        self.slots[process.name] = slot
        return slot

    def _write(self, process: Process, put: Callable[[], None]) -> None:
        self.faults.at_point(process, "log append")
        process.sleep(self.faults.latency())
        may_fail = self.world.now < self._scenario.quiet_after
        if self.faults.choose(FULL_DISK_ONE_IN) == 0 and may_fail:
            raise disk_full()
        put()
        self.faults.at_point(process, "after log append")

    def _clients_of(self, process: Process) -> Callable[..., Any]:
        def make_client(kind: Callable[..., Any], config: dict[str, Any]) -> Any:
            if kind is AdminClient:
                return Admin(process, self.cluster)
            return (Consumer if kind is RealConsumer else Producer)(process, self.cluster, config)

        return make_client

    @staticmethod
    def _background_of(process: Process) -> Callable[..., BackgroundCall]:
        return partial(BackgroundCall, thread=cast(Any, process.thread))

    def _worker(self, process: Process, instance: str, stop: StopEvent) -> Worker:
        drawn = self._scenario
        settings, make_client = SETTINGS[drawn.assignor], self._clients_of(process)
        background = self._background_of(process)

        def on_step(step: str) -> None:
            self.world.say(process.name, step)
            self.faults.at_point(process, f"after {step}")

        sessions = RedisSessions(
            "redis://simulated",
            key_prefix="",
            gap_ms=0,
            ttl_seconds=3600,
            timeout_seconds=5.0,
            connect=lambda url, timeout, **_: cast(
                Any, RedisClient(process, self.redis, self.lists, timeout)
            ),
        )
        consumer = ClickConsumer(
            settings,
            settings.clicks_topic,
            "workers",
            instance_id=instance,
            clock=process.monotonic,
            make_client=make_client,
            background=background,
            describe_group=partial(describe_group, make_client=make_client),
        )
        clocks = {"clock": process.monotonic, "now": process.wall}
        guarantee: Guarantee
        if drawn.guarantee == EXACTLY_ONCE:
            transactions = TransactionalPublisher(
                settings,
                instance or process.name,
                settings.clicks_topic,
                make_client=make_client,
                background=background,
            )
            transactions.connect()
            guarantee = ExactlyOnce(consumer, transactions, on_step=on_step, **clocks)
        else:
            publisher = Publisher(settings, make_client=make_client)
            guarantee = AtLeastOnce(consumer, publisher, on_step=on_step, **clocks)
        self._watch_batches(guarantee)
        return Worker(
            consumer=consumer,
            sessions=sessions,
            slot=self._slot(process, stop),
            guarantee=guarantee,
            topics=[AnswerTopic(settings.recommendations_topic)],
            dlq_topic=settings.dlq_topic,
            max_batch=drawn.max_batch,
            stop=stop,
            arms=ArmScorer(Guard(clock=process.monotonic)),
            now=process.wall,
            on_step=on_step,
        )

    def _watch_batches(self, guarantee: Guarantee) -> None:
        submit = guarantee.submit

        def seen(batch: Batch) -> None:
            self.oracle.submitted([answer.model_version for answer in batch.answers])
            submit(batch)

        setattr(guarantee, "submit", seen)  # noqa: B010  mypy allows no assignment to a method
