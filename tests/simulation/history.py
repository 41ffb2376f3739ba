"""One history: a seed, its workers and faults, until all is answered; then the oracle's verdict."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from nextclick.shared.errors import ConfigurationError, Fenced, Unavailable
from nextclick.shared.messages import of_user
from nextclick.shared.runtime import metrics
from nextclick.shared.schemas import Click
from nextclick.trainer.collect import Row
from tests.simulation.bucket import Bucket
from tests.simulation.cluster import Cluster
from tests.simulation.event_log import Disk, MemoryEventLog
from tests.simulation.faults import (
    ADDED,
    ADDED_PARTITIONS,
    ADDED_USERS,
    CLOCK_JUMP,
    EVENT_LOG,
    EVICTED,
    EXACTLY_ONCE,
    JOIN,
    KAFKA_DOWN,
    KILL,
    LEADER_LOST,
    LEAVE,
    MADE_ANEW,
    PAUSE,
    REDIS_DOWN,
    REGISTRY_DOWN,
    REMOVED,
    Fault,
    Faults,
    Scenario,
    scenario,
)
from tests.simulation.log import Record
from tests.simulation.models import Models
from tests.simulation.network import Server
from tests.simulation.oracle import Oracle, event_of
from tests.simulation.programs import KAFKA, Programs, items_of
from tests.simulation.redis import Lists
from tests.simulation.scheduler import Process, StopEvent, World

BOUND_SECONDS = 120.0
"""So long after the last fault and the last click everything has been answered: a session that
expires, a transaction that times out, and what was read before it, each once more."""
UNASSIGNED_SECONDS = 30.0
"""So long after the last fault every partition has an owner: a session that expires, and what
static members do about partitions that nobody would own for good (group.py)."""
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
    adapt: Callable[[Scenario], Scenario] = lambda drawn: drawn,
) -> Result:
    """Run the history of a seed.

    `only`: with none of its faults but these; `clicks`: with its first clicks only. `traced`: with
    lines for people. `adapt`: makes another scenario of what was drawn.
    """
    drawn = adapt(scenario(seed, guarantee))
    if clicks is not None:
        drawn = replace(drawn, clicks=drawn.clicks[:clicks])
    if only is not None:
        drawn = replace(drawn, timed=tuple(f for f in drawn.timed if f.number in only))
    history = _History(drawn, only, traced)
    with _logging(history.world):
        return history.run()


class _Place:
    """Where a worker runs; who dies there is started again."""

    def __init__(self, number: int, *, is_trainer: bool = False) -> None:
        self.number = number
        self.is_trainer = is_trainer
        self.process: Process | None = None
        self.stop: StopEvent | None = None
        self.starts = 0
        self.gone_for = 0.0
        """How long it stays away after the next SIGTERM."""


class _History:
    def __init__(self, drawn: Scenario, only: Collection[int] | None, traced: bool) -> None:
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
        self._disk = Disk(on_logged=lambda events: self._oracle.answered(-1, events))
        self._bucket_server = Server(self.world, "bucket", self._faults)
        self._bucket = Bucket(on_changed=self._oracle.changed)
        self._programs = Programs(
            self.world,
            self._faults,
            self._oracle,
            self._cluster,
            self._redis,
            self._lists,
            self._disk,
            self._bucket_server,
            self._bucket,
        )
        self._places = [_Place(number) for number in range(drawn.workers)]
        self._models: Models | None = None
        if drawn.delta_seconds:
            self._places.append(_Place(drawn.workers, is_trainer=True))
            log = MemoryEventLog(self._disk)
            self._models = Models(self._bucket, log, len(drawn.clicks))
        self._times = random.Random(f"restarts {drawn.seed}")
        self._left = len(drawn.clicks)
        self._quiet_since: float | None = None
        self._trouble_until = 0.0
        self._owned_at = 0.0

    def run(self) -> Result:
        drawn, world = self._scenario, self.world
        for number, (at, user) in enumerate(drawn.clicks):
            world.at(at, partial(self._click, number, user))
        for fault in drawn.timed:
            world.at(fault.at, partial(self._befall, fault))
        counted = metrics.REMOVED_UNREAD._value.get()
        self._start(self._places[0])
        if self._models is not None:
            self._start(self._places[-1])
        world.after(LOOK_SECONDS, self._look)
        world.run()
        world.close()
        if not self._oracle.violations:
            self._judge(int(metrics.REMOVED_UNREAD._value.get() - counted))
        return Result(
            drawn,
            self._oracle.violations,
            self._faults.struck,
            world.now,
            world.trace or (),
        )

    def _judge(self, counted: int) -> None:
        drawn, oracle = self._scenario, self._oracle
        struck = {fault.kind for fault in self._faults.struck}
        if drawn.guarantee == EVENT_LOG:
            oracle.judge_log(self._disk.rows)
        else:
            answers = [
                record
                for (topic, _), partition in self._cluster.partitions.items()
                if topic == KAFKA.recommendations_topic
                for record in partition.committed()
            ]
            gentle = struck <= {JOIN, LEAVE, CLOCK_JUMP}
            once = drawn.guarantee == EXACTLY_ONCE or gentle
            oracle.judge(answers, self._items_of, once=once)
        exactly = drawn.workers == 1 and struck <= {REMOVED, CLOCK_JUMP}
        oracle.judge_counted(counted, exactly=exactly)

    def _items_of(self, version: str, history: Sequence[str]) -> list[str]:
        """What a version, perhaps with a delta, recommends."""
        return items_of(self._models.content_of(version) if self._models else version, history)

    def _appended(self, topic: str, producer: int, records: Sequence[Record]) -> None:
        if topic == KAFKA.recommendations_topic:
            self._oracle.answered(producer, [event_of(record.value) for record in records])

    def _click(self, number: int, user: int) -> None:
        self._left -= 1
        topic, count = KAFKA.clicks_topic, self._scenario.partitions
        # What is clicked on a topic that was made anew is newer than all on the former.
        hour = self._cluster.ids[topic] - 1
        click = Click(
            event_id=f"click-{number}",
            user_id=f"user-{user}",
            item_id=str(number),
            timestamp=1_700_000_000_000 + 3_600_000 * hour + 1000 * number - 2500 * (number % 3),
        )
        partition = user % count
        if user >= ADDED_USERS and self._cluster.topics[topic] > count:
            partition = count + user % ADDED_PARTITIONS
        message = of_user(topic, click)
        self.world.say("shop", f"{click.event_id} of {click.user_id} to partition {partition}")
        self._oracle.clicked(click, partition)
        log = self._cluster.partitions[topic, partition]
        log.put(Record(message.key, message.value))
        if self._models is not None:
            row = Row(
                click.event_id,
                click.user_id,
                click.item_id,
                click.timestamp,
                click.event_type,
                1_700_000_000_000 + int(1000 * self.world.now),
                partition,
                len(log.records) - 1,
            )
            self._disk.rows.append((str(self._cluster.ids[topic]), row))

    # Processes

    def _start(self, place: _Place) -> None:
        if place.process is not None and place.process.alive:
            return
        place.starts += 1
        kind = "t" if self._scenario.guarantee == EVENT_LOG or place.is_trainer else "w"
        process = self.world.process(f"{kind}{place.number}.{place.starts}")
        place.process, place.stop = process, StopEvent(process)
        self.world.say(process.name, "starts")
        thread = process.thread(partial(self._run, place, process, place.stop), "main")
        process.on_death = partial(self._died, place)
        thread.start()

    def _died(self, place: _Place) -> None:
        """Start another."""
        if place.gone_for < 1000.0 or place.number == 0 or place.is_trainer:
            wait = min(place.gone_for, 3.0) or self._times.choice((0.0, 0.5, 3.0))
            place.gone_for = 0.0
            self.world.after(wait, partial(self._start, place))

    def _run(self, place: _Place, process: Process, stop: StopEvent) -> None:
        drawn, programs = self._scenario, self._programs
        instance = process.name.partition(".")[0] if drawn.static else ""
        try:
            if place.is_trainer:
                programs.publish(process, stop)
            elif drawn.guarantee == EVENT_LOG:
                programs.train(process, instance, stop)
            else:
                programs.work(process, instance, stop)
        except (Fenced, Unavailable, ConfigurationError) as error:
            self.world.say(process.name, f"ends: {error}")
            if isinstance(error, ConfigurationError):
                self._oracle.violations.append(f"{process.name} ended: {error}")
        except Exception as bug:
            self._oracle.violations.append(f"{process.name} ended by a bug: {bug!r}")
            self.world.stopped = True
        finally:
            process.kill()

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
        elif fault.kind == REGISTRY_DOWN:
            self._bucket_server.go_down(fault.seconds)
        elif fault.kind in (LEADER_LOST, EVICTED, REMOVED, ADDED, MADE_ANEW):
            self._befall_data(fault)
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

    def _befall_data(self, fault: Fault) -> None:
        cluster, oracle, topic = self._cluster, self._oracle, KAFKA.clicks_topic
        chance = random.Random(f"{self._scenario.seed} {fault.number}")
        if fault.kind == LEADER_LOST:
            place = chance.choice(sorted(cluster.partitions))
            self.world.say("fate", f"of {place}")
            cluster.lose_leader(place, fault.seconds)
        elif fault.kind == EVICTED:
            keys = [key for key in self._lists.keys if fault.seconds or chance.random() < 0.5]
            self.world.say("fate", f"of {keys}")
            self._lists.drop(keys)
            for key in keys:
                oracle.dropped(key.decode())
        elif fault.kind == REMOVED:
            partition = chance.randrange(self._scenario.partitions)
            log = cluster.partitions[topic, partition]
            before = chance.randint(0, len(log.records))
            self.world.say("fate", f"partition {partition} up to {before}")
            cluster.remove_records((topic, partition), before)
            logged = {partition for _, partition in self._disk.offsets}
            committed = cluster.group.offsets.keys()
            is_log = self._scenario.guarantee == EVENT_LOG
            # Whoever has not begun to read there does not know what he has missed.
            known = partition in (logged if is_log else committed)
            oracle.removed(partition, before, counted=known)
        elif fault.kind == ADDED:
            cluster.add_partitions(topic, ADDED_PARTITIONS)
        elif fault.kind == MADE_ANEW:
            count = cluster.topics[topic]
            cluster.delete(topic)
            oracle.topic_deleted()
            self.world.after(fault.seconds, lambda: cluster.create(topic, count))

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
        count = self._cluster.topics.get(KAFKA.clicks_topic, 0)
        if not drawn.static:  # somebody has to find those that are added, see consumer.py
            count = min(count, drawn.partitions)
        if not group.is_without_owner(count):
            self._owned_at = now
        faults_until = max(self._trouble_until, self._faults_until())
        if now > max(self._owned_at, faults_until) + UNASSIGNED_SECONDS:
            self._oracle.violations.append(
                f"a partition has had no owner for {UNASSIGNED_SECONDS:g} s after the last fault"
            )
            self.world.stopped = True
        ended = max(faults_until, drawn.clicks[-1][0])
        if now > ended + BOUND_SECONDS:
            missing = self._missing_in_models() if not self._left else ""
            self._oracle.violations.append(
                (missing or "not everything is answered and committed")
                + f" {BOUND_SECONDS:g} s after the last fault"
            )
            self.world.stopped = True
        if self._left or not self._is_done():
            self._quiet_since = None
        elif self._quiet_since is None:
            if not self._missing_in_models():
                self._quiet_since = now
        elif now - self._quiet_since >= SETTLED_SECONDS:
            self.world.stopped = True

    def _missing_in_models(self) -> str:
        """What the workers that run do not serve yet; "" if nothing."""
        if self._models is None:
            return ""
        slots = self._programs.slots
        running = [p.process.name for p in self._places if p.process and p.process.alive]
        models = [slots[name].model for name in running if name in slots]
        return self._models.missing([model.name for model in models if model is not None])

    def _faults_until(self) -> float:
        return self._scenario.quiet_after if self._faults.struck else 0.0

    def _is_quiet(self) -> bool:
        """Whether nothing is wrong at this moment."""
        servers = (self._cluster.server, self._redis, self._bucket_server)
        paused = any(
            place.process is not None
            and place.process.alive
            and place.process.paused_until > self.world.now
            for place in self._places
        )
        return (
            not paused
            and self._cluster.all_led
            and not any(server.down or server.held for server in servers)
        )

    def _is_done(self) -> bool:
        """Whether everything is committed, and nothing is open."""
        if not self._is_quiet() or KAFKA.clicks_topic not in self._cluster.topics:
            return False
        if self._scenario.guarantee == EVENT_LOG:  # a commit that is refused is not made again
            return self._oracle.all_is_answered
        offsets = self._cluster.group.offsets
        return not self._cluster.transactions.busy and all(
            max(offsets.get(number, 0), partition.start) >= len(partition.records)
            for (topic, number), partition in self._cluster.partitions.items()
            if topic == KAFKA.clicks_topic
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
