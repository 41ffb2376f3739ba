"""One history: a seed, its workers and faults, until all is answered; then the oracle's verdict."""

from __future__ import annotations

import logging
import random
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

from confluent_kafka import Consumer as RealConsumer
from confluent_kafka.admin import AdminClient

from nextclick.services.worker.at_least_once import AtLeastOnce
from nextclick.services.worker.exactly_once import ExactlyOnce
from nextclick.services.worker.guarantee import Guarantee
from nextclick.services.worker.guard import Guard
from nextclick.services.worker.loop import Worker
from nextclick.shared.errors import ConfigurationError, Fenced, Unavailable
from nextclick.shared.kafka import ClickConsumer, Publisher, TransactionalPublisher
from nextclick.shared.kafka.background import BackgroundCall
from nextclick.shared.messages import of_user
from nextclick.shared.model import Ranking
from nextclick.shared.redis import RedisSessions
from nextclick.shared.registry import ModelSlot, ServedModel
from nextclick.shared.runtime.settings import KafkaSettings
from nextclick.shared.schemas import Click, ScoredItem
from tests.simulation.cluster import Cluster
from tests.simulation.consumer import Admin, Consumer
from tests.simulation.faults import (
    CLOCK_JUMP,
    EXACTLY_ONCE,
    JOIN,
    KAFKA_DOWN,
    KILL,
    LEAVE,
    PAUSE,
    REDIS_DOWN,
    Fault,
    Faults,
    Scenario,
    scenario,
)
from tests.simulation.log import Record
from tests.simulation.network import Server
from tests.simulation.oracle import Oracle
from tests.simulation.producer import Producer
from tests.simulation.redis import Lists, RedisClient
from tests.simulation.scheduler import Process, StopEvent, World

KAFKA = KafkaSettings(bootstrap_servers="simulated:9092")
BOUND_SECONDS = 120.0
"""So long after the last fault and the last click everything has been answered: a session that
expires, a transaction that times out, and what was read before it, each once more."""
OPERATOR_SECONDS = 30.0
"""A partition may stay without an owner for good when a static member is replaced while it gives it
up (group.py). Workers do not notice; after so long somebody makes the group rebalance."""
LOOK_SECONDS = 0.5
SETTLED_SECONDS = 1.5
"""How long everything must be at rest before a history ends."""


@dataclass(frozen=True)
class Result:
    """What came of a history."""

    scenario: Scenario
    violations: Sequence[str]
    struck: Sequence[Fault]
    """The faults that happened."""
    seconds: float
    """Simulated."""
    trace: Sequence[str]


def run(
    seed: int,
    guarantee: str,
    *,
    only: Collection[int] | None = None,
    clicks: int | None = None,
    traced: bool = False,
    operator: bool = True,
    adapt: Callable[[Scenario], Scenario] = lambda drawn: drawn,
) -> Result:
    """Run the history of a seed.

    `only`: with none of its faults but these; `clicks`: with its first clicks only. `traced`: with
    lines for people. `operator`: somebody sees to partitions that stay without an owner, see
    OPERATOR_SECONDS. `adapt`: makes another scenario of what was drawn.
    """
    drawn = adapt(scenario(seed, guarantee))
    if clicks is not None:
        drawn = replace(drawn, clicks=drawn.clicks[:clicks])
    if only is not None:
        drawn = replace(drawn, timed=tuple(f for f in drawn.timed if f.number in only))
    history = _History(drawn, only, traced, operator)
    with _logging(history.world):
        return history.run()


class _Scorer:
    """Some list that depends on the history only."""

    def recommend(self, histories: Sequence[Sequence[str]]) -> list[Ranking]:
        rankings = []
        for history in histories:
            number = zlib.crc32(" ".join(history).encode())
            items = [ScoredItem(str((number >> shift) % 50), 0.5) for shift in (0, 8, 16)]
            rankings.append(Ranking(items, None))
        return rankings


class _Slot:
    """Holds one model for good."""

    model = ServedModel("v1", cast(Any, _Scorer()))


class _Place:
    """Where a worker runs; who dies there is started again."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: Process | None = None
        self.stop: StopEvent | None = None
        self.starts = 0
        self.gone_for = 0.0
        """How long it stays away after the next SIGTERM."""


class _History:
    def __init__(
        self, drawn: Scenario, only: Collection[int] | None, traced: bool, operator: bool
    ) -> None:
        self.world = World()
        if traced:
            self.world.trace = []
        self._scenario = drawn
        self._faults = Faults(self.world, drawn, only)
        self._oracle = Oracle()
        self._cluster = Cluster(
            self.world,
            self._faults,
            {
                KAFKA.clicks_topic: drawn.partitions,
                KAFKA.recommendations_topic: drawn.answer_partitions,
                KAFKA.dlq_topic: 1,
            },
            drawn.rebalance_delay,
            on_appended=self._appended,
            on_decided=self._oracle.decided,
            on_committed=self._oracle.committed,
        )
        self._redis = Server(self.world, "redis", self._faults)
        self._lists = Lists()
        self._places = [_Place(number) for number in range(drawn.workers)]
        self._times = random.Random(f"restarts {drawn.seed}")
        self._left = len(drawn.clicks)
        self._quiet_since: float | None = None
        self._trouble_until = 0.0
        self._operator = operator
        self._owned_at = 0.0

    def run(self) -> Result:
        drawn, world = self._scenario, self.world
        for number, (at, user) in enumerate(drawn.clicks):
            world.at(at, partial(self._click, number, user))
        for fault in drawn.timed:
            world.at(fault.at, partial(self._befall, fault))
        self._start(self._places[0])
        world.after(LOOK_SECONDS, self._look)
        world.run()
        world.close()
        answers = [
            record
            for (topic, _), partition in self._cluster.partitions.items()
            if topic == KAFKA.recommendations_topic
            for record in partition.committed()
        ]
        gentle = all(f.kind in (JOIN, LEAVE, CLOCK_JUMP) for f in self._faults.struck)
        self._oracle.judge(answers, once=drawn.guarantee == EXACTLY_ONCE or gentle)
        return Result(
            drawn,
            self._oracle.violations,
            self._faults.struck,
            world.now,
            world.trace or (),
        )

    def _appended(self, topic: str, producer: int, records: Sequence[Record]) -> None:
        if topic == KAFKA.recommendations_topic:
            self._oracle.answered(producer, records)

    def _click(self, number: int, user: int) -> None:
        self._left -= 1
        click = Click(
            event_id=f"click-{number}",
            user_id=f"user-{user}",
            item_id=str(number),
            timestamp=1_700_000_000_000 + 1000 * number - 2500 * (number % 3),
        )
        partition = user % self._scenario.partitions
        message = of_user(KAFKA.clicks_topic, click)
        self.world.say("shop", f"{click.event_id} of {click.user_id} to partition {partition}")
        self._oracle.clicked(click, partition)
        log = self._cluster.partitions[KAFKA.clicks_topic, partition]
        log.put(Record(message.key, message.value))

    # Workers

    def _start(self, place: _Place) -> None:
        if place.process is not None and place.process.alive:
            return
        place.starts += 1
        process = self.world.process(f"w{place.number}.{place.starts}")
        place.process, place.stop = process, StopEvent(process)
        self.world.say(process.name, "starts")
        thread = process.thread(partial(self._work, place, process, place.stop), "main")
        process.on_death = partial(self._died, place)
        thread.start()

    def _died(self, place: _Place) -> None:
        """Start another."""
        if place.gone_for < 1000.0 or place.number == 0:
            wait = min(place.gone_for, 3.0) or self._times.choice((0.0, 0.5, 3.0))
            place.gone_for = 0.0
            self.world.after(wait, partial(self._start, place))

    def _work(self, place: _Place, process: Process, stop: StopEvent) -> None:
        """As services.worker.main does it."""
        try:
            worker = self._build(place, process, stop)
            try:
                worker.run()
                self.world.say(process.name, "has stopped")
            finally:
                if process.alive:
                    worker.close()
        except (Fenced, Unavailable, ConfigurationError) as error:
            self.world.say(process.name, f"ends: {error}")
            if isinstance(error, ConfigurationError):
                self._oracle.violations.append(f"{process.name} ended: {error}")
        except Exception as bug:
            self._oracle.violations.append(f"{process.name} ended by a bug: {bug!r}")
            self.world.stopped = True
        finally:
            process.kill()

    def _build(self, place: _Place, process: Process, stop: StopEvent) -> Worker:
        """As services.worker.main does it."""
        drawn, cluster = self._scenario, self._cluster

        def make_client(kind: Callable[..., Any], config: dict[str, Any]) -> Any:
            if kind is AdminClient:
                return Admin(process, cluster)
            return (Consumer if kind is RealConsumer else Producer)(process, cluster, config)

        def on_step(step: str) -> None:
            self.world.say(process.name, step)
            self._faults.at_point(process, f"after {step}")

        background = partial(BackgroundCall, thread=cast(Any, process.thread))
        sessions = RedisSessions(
            "redis://simulated",
            key_prefix="",
            gap_ms=0,
            ttl_seconds=3600,
            timeout_seconds=5.0,
            connect=lambda url, timeout, cluster: cast(
                Any, RedisClient(process, self._redis, self._lists, timeout)
            ),
        )
        instance = f"w{place.number}" if drawn.static else ""
        consumer = ClickConsumer(
            KAFKA,
            KAFKA.clicks_topic,
            "workers",
            instance_id=instance,
            clock=process.monotonic,
            make_client=make_client,
            background=background,
        )
        clocks = {"clock": process.monotonic, "now": process.wall}
        guarantee: Guarantee
        if drawn.guarantee == EXACTLY_ONCE:
            name = instance or process.name
            transactions = TransactionalPublisher(
                KAFKA, name, KAFKA.clicks_topic, make_client=make_client, background=background
            )
            transactions.connect()
            guarantee = ExactlyOnce(consumer, transactions, on_step=on_step, **clocks)
        else:
            publisher = Publisher(KAFKA, make_client=make_client)
            guarantee = AtLeastOnce(consumer, publisher, on_step=on_step, **clocks)
        return Worker(
            consumer=consumer,
            sessions=sessions,
            slot=cast(ModelSlot, _Slot()),
            guarantee=guarantee,
            recommendations_topic=KAFKA.recommendations_topic,
            dlq_topic=KAFKA.dlq_topic,
            max_batch=drawn.max_batch,
            stop=stop,
            guard=Guard(clock=process.monotonic),
            now=process.wall,
            on_step=on_step,
        )

    # Faults that have a time

    def _befall(self, fault: Fault) -> None:
        place = self._places[fault.worker]
        self.world.say("fate", str(fault))
        self._faults.struck.append(fault)
        process = place.process
        if fault.kind == JOIN:
            self._start(place)
        elif fault.kind == KAFKA_DOWN:
            self._cluster.server.go_down(fault.seconds)
        elif fault.kind == REDIS_DOWN:
            self._redis.go_down(fault.seconds)
        elif process is None or not process.alive:
            return
        elif fault.kind == LEAVE:
            assert place.stop is not None
            place.gone_for = fault.seconds
            place.stop.set()
        elif fault.kind == KILL:
            process.kill()
        elif fault.kind == PAUSE:
            process.pause(fault.seconds)
        elif fault.kind == CLOCK_JUMP:
            process.clock_skew += fault.seconds

    # The end

    def _look(self) -> None:
        """Twice a second: is it over?"""
        self.world.after(LOOK_SECONDS, self._look)
        now, drawn = self.world.now, self._scenario
        if self._oracle.violations:
            self.world.stopped = True
        if not self._is_quiet():
            self._trouble_until = now
        group = self._cluster.group
        if not group.is_without_owner(drawn.partitions):
            self._owned_at = now
        elif self._operator and now - self._owned_at > OPERATOR_SECONDS:
            self.world.say("operator", "partitions without an owner: makes the group rebalance")
            group.rebalance()
        ended = max(self._trouble_until, self._faults_until(), drawn.clicks[-1][0])
        if now > ended + BOUND_SECONDS:
            self._oracle.violations.append(
                f"not everything is answered and committed {BOUND_SECONDS:g} s after the last fault"
            )
            self.world.stopped = True
        if self._left or not self._is_done():
            self._quiet_since = None
        elif self._quiet_since is None:
            self._quiet_since = now
        elif now - self._quiet_since >= SETTLED_SECONDS:
            self.world.stopped = True

    def _faults_until(self) -> float:
        return self._scenario.quiet_after if self._faults.struck else 0.0

    def _is_quiet(self) -> bool:
        """Whether nothing is wrong at this moment."""
        servers = (self._cluster.server, self._redis)
        paused = any(
            place.process is not None
            and place.process.alive
            and place.process.paused_until > self.world.now
            for place in self._places
        )
        return not paused and not any(server.down or server.held for server in servers)

    def _is_done(self) -> bool:
        """Whether everything is committed, and nothing is open."""
        offsets = self._cluster.group.offsets
        return (
            self._is_quiet()
            and not self._cluster.transactions.busy
            and all(
                offsets.get(number, 0) >= len(partition.records)
                for (topic, number), partition in self._cluster.partitions.items()
                if topic == KAFKA.clicks_topic
            )
        )


class _TraceHandler(logging.Handler):
    """What the product logs is part of a readable history."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        self._world.say("", f"    log: {record.getMessage()}")


@contextmanager
def _logging(world: World) -> Iterator[None]:
    product = logging.getLogger("nextclick")
    level, propagate, disabled = product.level, product.propagate, product.disabled
    handler = _TraceHandler(world)
    product.addHandler(handler)
    product.propagate = False
    product.setLevel(logging.INFO if world.trace is not None else logging.CRITICAL)
    try:
        yield
    finally:
        product.removeHandler(handler)
        product.setLevel(level)
        product.propagate, product.disabled = propagate, disabled
