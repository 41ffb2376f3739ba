"""What befalls a history: who works, what is clicked when, and what breaks. A seed decides it all.

Faults strike at calls (the process dies, stands still, its request is lost, ...) or at a time (a
worker joins, Kafka is away, ...). Whether one strikes at the n-th call is a matter of the seed and
of n alone, so that a history can be run again with some of its faults only.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from tests.simulation.scheduler import Crash, Process, World

CRASH = "crash"
"""SIGKILL before the call."""
DIES_AFTER = "dies after sending"
PAUSE = "pause"
REQUEST_LOST = "request lost"
ANSWER_LOST = "answer lost"
HELD = "request held"
AT_CALLS = (CRASH, DIES_AFTER, PAUSE, REQUEST_LOST, ANSWER_LOST, HELD)

JOIN = "join"
LEAVE = "leave"
"""SIGTERM; the worker is started again later, or never."""
KILL = "kill"
"""SIGKILL at some time, wherever it is then."""
KAFKA_DOWN = "Kafka down"
REDIS_DOWN = "Redis down"
CLOCK_JUMP = "clock jump"
LEADER_LOST = "leader lost"
"""One partition has no leader for a while."""
EVICTED = "keys evicted"
"""Redis drops half of its keys; all of them, if `seconds` is not 0."""
REMOVED = "records removed"
"""Retention, or somebody, takes clicks away, read or not."""
REGISTRY_DOWN = "registry down"
"""In histories with a registry only."""
ADDED = "partitions added"
MADE_ANEW = "topic made anew"
"""The clicks topic is deleted, and created again after `seconds`."""
AT_TIMES = (
    *(LEAVE, KILL, KAFKA_DOWN, REDIS_DOWN, CLOCK_JUMP, PAUSE, LEADER_LOST),
    *(EVICTED, REMOVED, ADDED, MADE_ANEW),
)
RARE = (EVICTED, REMOVED, ADDED, MADE_ANEW)
"""At most one kind of these befalls a history: what each may cost is then told apart."""

OF_TRAINER = (LEAVE, KILL, PAUSE, CLOCK_JUMP)
"""These may befall a trainer that publishes deltas, too."""

FOCI = ("", "", "poll", "append", "after polled", "after scored", "produce", "commit_transaction")
"""Calls of which one in each history may be struck FOCUS times as often."""
FOCUS = 20

AT_LEAST_ONCE, EXACTLY_ONCE = "at_least_once", "exactly_once"
EVENT_LOG = "event_log"
"""Not of workers, but of trainers: each click of the topic is in the event log once."""
DELTAS = "deltas"
"""At least once, by workers that follow a registry in a bucket, to which a trainer publishes
versions and deltas of them."""
SUBJECTS = (AT_LEAST_ONCE, EXACTLY_ONCE, EVENT_LOG, DELTAS)

QUIET_SECONDS = 60.0
"""A topic that was made anew is empty for so long after the last fault: whoever stood still or was
away meanwhile has noticed by then."""
ADDED_PARTITIONS = 2
ADDED_USERS = 1000
"""Users from this number on click on partitions that were added, if they were."""


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong; `number` says which of the history's it is."""

    number: int
    kind: str
    seconds: float = 0.0
    at: float = -1.0
    """Seconds from the beginning; -1: at the call of that number."""
    worker: int = 0

    def __str__(self) -> str:
        where = f"at {self.at:.2f} s" if self.at >= 0 else f"at call {self.number}"
        return f"{self.kind} {where} (worker {self.worker}, {self.seconds:.2f} s)"


@dataclass(frozen=True)
class Scenario:
    """All that a seed decides before a history begins."""

    seed: int
    guarantee: str
    workers: int
    """Of them, one starts at once; the others join by faults of kind JOIN."""
    static: bool
    """Whether workers have an INSTANCE_ID."""
    partitions: int
    answer_partitions: int
    users: int
    clicks: tuple[tuple[float, int], ...]
    """When, and of which user."""
    max_batch: int
    slowest: float
    """Latency of the slowest request, seconds."""
    sluggish: float
    """By how much a poll returns too late, at most."""
    rates: tuple[tuple[str, float], ...]
    """Of each kind of fault, how probable at each call."""
    focus: str
    """Which call is struck more often."""
    timed: tuple[Fault, ...]
    quiet_after: float
    """No fault strikes later."""
    assignor: str
    """partition.assignment.strategy."""
    flush: float
    """flush_seconds of a trainer."""
    swap_seconds: float
    """Between two versions of the model; 0: there is one."""
    rebalance_delay: float
    """group.initial.rebalance.delay.ms, in seconds."""
    delta_seconds: float = 0.0
    """Of a trainer; 0: there is none, nor a registry."""


def scenario(seed: int, guarantee: str) -> Scenario:
    """Draw what a history is about."""
    rng = random.Random(f"{guarantee} {seed}")
    workers = rng.choice((1, 1, 2) if guarantee == EVENT_LOG else (1, 2, 2, 3))
    quiet_after = rng.choice((4.0, 12.0, 30.0))
    kinds = [kind for kind in AT_CALLS if rng.random() < 0.5]
    rate = rng.choice((0.002, 0.006, 0.02))
    users = rng.choice((1, 1, 2, 4, 8))
    timed = _timed(rng, workers, quiet_after)
    drawn = Scenario(
        seed=seed,
        guarantee=guarantee,
        workers=workers,
        static=rng.random() < 0.5,
        partitions=rng.choice((1, 2, 3, 4)),
        answer_partitions=rng.choice((1, 2, 3)),
        users=users,
        clicks=_clicks(rng, users, quiet_after, timed),
        max_batch=rng.choice((2, 8, 64)),
        slowest=rng.choice((0.004, 0.03, 0.3)),
        sluggish=rng.choice((0.01, 0.05)),
        rates=tuple((kind, rate * rng.random()) for kind in kinds),
        focus=rng.choice(FOCI),
        timed=timed,
        quiet_after=quiet_after,
        assignor=rng.choice(("cooperative-sticky", "cooperative-sticky", "range")),
        flush=rng.choice((0.0, 0.5, 5.0)),
        swap_seconds=rng.choice((0.0, 0.0, 0.3, 5.0)),
        rebalance_delay=rng.choice((0.0, 0.0, 3.0)),
    )
    return _with_trainer(drawn, rng) if guarantee == DELTAS else drawn


def _with_trainer(drawn: Scenario, rng: random.Random) -> Scenario:
    """Also befall a trainer, as if it were one worker more, and the registry."""
    timed = [
        replace(fault, worker=drawn.workers)
        if fault.kind in OF_TRAINER and not fault.number % 2
        else fault
        for fault in drawn.timed
    ]
    if rng.random() < 0.35:
        seconds, at = rng.choice((0.5, 5.0, 15.0)), rng.random() * drawn.quiet_after
        timed.append(Fault(-1 - len(timed), REGISTRY_DOWN, seconds, at))
    return replace(
        drawn,
        timed=tuple(timed),
        swap_seconds=rng.choice((0.0, 2.0, 7.0)),
        delta_seconds=rng.choice((0.5, 1.0, 5.0)),
    )


def _clicks(
    rng: random.Random, users: int, quiet_after: float, timed: Sequence[Fault]
) -> tuple[tuple[float, int], ...]:
    count = rng.choice((4, 12, 30, 75))
    if rng.random() < 0.3:  # all there before anybody reads
        times = [0.0] * count
    else:
        times = sorted(rng.random() * quiet_after for _ in range(count))
        if rng.random() < 0.4:
            burst = rng.choice((3, 10, 30))
            times = [times[i - i % burst] for i in range(count)]
    clicks = [(at, rng.randrange(users)) for at in times]
    for fault in timed:
        if fault.kind == ADDED:
            for _ in range(rng.choice((1, 5, 20))):
                at = fault.at + rng.random() * (quiet_after - fault.at)
                clicks.append((at, ADDED_USERS + rng.randrange(users)))
            clicks.sort()
        elif fault.kind == MADE_ANEW:
            begins = quiet_after + QUIET_SECONDS
            clicks = [(at if at < fault.at else at - fault.at + begins, u) for at, u in clicks]
            last = max(begins, clicks[-1][0])
            clicks += [(last, rng.randrange(users)) for _ in range(rng.choice((0, 1, 10)))]
    return tuple(clicks)


def _timed(rng: random.Random, workers: int, quiet_after: float) -> tuple[Fault, ...]:
    kinds = [JOIN] * (workers - 1)
    some = [kind for kind in AT_TIMES if rng.random() < (0.1 if kind in RARE else 0.35)]
    rare = [kind for kind in some if kind in RARE]
    some = [kind for kind in some if kind not in rare[1:]]
    kinds += [rng.choice(some) for _ in range(rng.choice((0, 1, 2, 4)))] if some else []
    faults, joined = [], 0
    for number, kind in enumerate(kinds):
        if kind in RARE and kind in kinds[:number]:
            continue
        at = rng.random() * quiet_after
        worker = rng.randrange(workers)
        if kind == JOIN:
            joined += 1
            worker = joined
        seconds = {
            LEAVE: rng.choice((0.3, 3.0, 1000.0)),
            KAFKA_DOWN: rng.choice((0.5, 5.0, 15.0)),
            REDIS_DOWN: rng.choice((0.5, 5.0, 15.0)),
            PAUSE: rng.choice((1.0, 9.0, 13.0, 35.0)),
            CLOCK_JUMP: rng.choice((-3600.0, 3600.0)),
            LEADER_LOST: rng.choice((0.5, 5.0, 15.0)),
            EVICTED: rng.choice((0.0, 1.0)),
            MADE_ANEW: rng.choice((0.1, 1.0, 8.0)),
        }.get(kind, 0.0)
        faults.append(Fault(-1 - number, kind, seconds, at, worker))
    return tuple(faults)


@dataclass
class Faults:
    """Strikes at calls, as a scenario says; those whose numbers are in `only`, if it is given."""

    world: World
    scenario: Scenario
    only: Collection[int] | None = None
    struck: list[Fault] = field(default_factory=list)
    """What has happened."""
    at_most: int = 12

    def __post_init__(self) -> None:
        self._chance = random.Random(f"faults {self.scenario.seed}")
        self._time = random.Random(f"latency {self.scenario.seed}")
        self._call = 0
        bounds, total = [], 0.0
        for kind, rate in self.scenario.rates:
            total += rate
            bounds.append((total, kind))
        self._bounds, self._total = bounds, total

    def latency(self) -> float:
        """Of one way of a request, or of an answer."""
        chance = self._time.random()
        return 0.0003 + self.scenario.slowest * chance * chance * chance

    def sluggishness(self) -> float:
        """By how much a poll returns too late."""
        return self.scenario.sluggish * self._time.random()

    def choose(self, count: int) -> int:
        """Some number below `count`."""
        return self._time.randrange(count)

    def at_point(self, process: Process, what: str) -> None:
        """Let the process die or stand still here. Raises Crash."""
        fault = self._draw(process, what)
        if fault is not None and fault.kind in (CRASH, DIES_AFTER, PAUSE):
            self._strike(fault, process, what)

    def at_request(self, process: Process, what: str) -> Fault | None:
        """The same, and what is to become of a request. Raises Crash."""
        fault = self._draw(process, what)
        if fault is not None:
            self._strike(fault, process, what)
        return fault

    def _draw(self, process: Process, what: str) -> Fault | None:
        if not process.alive:
            raise Crash
        self._call += 1
        chance = self._chance.random()
        if what == self.scenario.focus:
            chance /= FOCUS
        if chance >= self._total:
            return None
        number = self._call
        if self.only is not None and number not in self.only:
            return None
        if self.world.now > self.scenario.quiet_after or len(self.struck) >= self.at_most:
            return None
        kind = next(kind for bound, kind in self._bounds if chance < bound)
        details = random.Random(f"{self.scenario.seed} {number}")
        seconds = {
            PAUSE: details.choice((0.05, 9.5, 13.0, 35.0)),
            HELD: details.choice((0.5, 9.8, 12.0, 20.0)) + details.random(),
        }.get(kind, 0.0)
        return Fault(number, kind, seconds)

    def _strike(self, fault: Fault, process: Process, what: str) -> None:
        self.struck.append(fault)
        self.world.say(process.name, f"*** {fault}: {what}")
        if fault.kind == CRASH:
            process.kill()
            raise Crash
        if fault.kind == PAUSE:
            process.pause(fault.seconds)
