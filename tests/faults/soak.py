"""A shop for a long time: three brokers, Redis, workers, trainer, HTTP service, page, and faults.

The trainer publishes deltas each second.

A seed draws the faults. Beside them an observer asks every second what the services say of
themselves, and compares it with what it knows of the servers.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import httpx2 as httpx
from confluent_kafka import Consumer, KafkaException, TopicPartition
from prometheus_client.parser import text_string_to_metric_families

from nextclick.services.api.page.feed import Feed
from nextclick.shared.embedded import KafkaCluster, Server, free_port
from nextclick.shared.kafka.lag import EVERY_SECONDS
from nextclick.shared.registry import Registry
from nextclick.shared.registry.registry import published_at
from nextclick.shared.runtime.settings import PREFIX
from nextclick.shared.schemas import Click
from tests.faults.stand import Stand, go_on, memory_mb, open_files, pause
from tests.faults.tampering import hang_up_on_signal
from tests.integration.traffic import make_clicks, publish_model
from tests.waiting import until

RATE = 60
"""Clicks a second."""
SETTLED_SECONDS = 20.0
"""After a change a service has so long until what it says must be true."""
NOTICED_SECONDS = 8.0
"""An outage must be said after so long: time-outs are 2 s, answers are asked for each second."""
OUTCOME_SECONDS = 45.0
"""So long after its connections were cut, or a worker was paused, killed or told to end, a worker
may say that no answer is acknowledged: under exactly once it waits for the outcome of a
transaction, its own or the other's (34 s in docs/guarantees.md), and then for its group."""
WRONG_IN_A_ROW = 3
"""So many times, a second apart, something must be wrong to count: processes share two cores."""
LAG_SECONDS = 2 * EVERY_SECONDS + 2
"""A lag that is shown was true at some moment of so many seconds."""


@dataclass
class Service:
    """A command of nextclick, which a supervisor starts again whenever it ends."""

    name: str
    command: str
    port: int
    """Of /readyz."""
    settings: dict[str, str]
    process: ForkServerProcess | None = None
    changed_at: float = 0.0
    """When it was started, or went on after a pause."""
    paused: bool = False
    to_end: bool = False
    """It was killed or told to end."""
    restart_at: float = 0.0
    memory: list[tuple[float, int]] = field(default_factory=list)
    """MB and open files of the process that runs now, a pair a second."""

    @property
    def pid(self) -> int | None:
        """Of the process that runs now."""
        return self.process.pid if self.process else None


@dataclass
class Soak:
    """Everything that runs, what is done to it, and what it says meanwhile."""

    stand: Stand
    cluster: KafkaCluster
    seed: int
    trouble: list[str] = field(default_factory=list)
    """What was wrong, with the second when it was."""
    history: list[str] = field(default_factory=list)
    """What was done."""
    judged: dict[str, int] = field(default_factory=dict)
    """How many times each statement was compared."""

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(24)
        self._broken: set[Server] = set()
        self._ended: set[Server] = set()
        self._kafka_changed_at = self._redis_changed_at = self._now()
        self._workers_changed_at = 0.0
        self._redis_up = True
        self._undo: list[tuple[float, Callable[[], None]]] = []
        self._wrong_in_a_row: dict[str, int] = {}
        self._own_lags: deque[tuple[float, int]] = deque(maxlen=60)
        self._models = 1
        # Not AdminClient.list_consumer_group_offsets: librdkafka reads from NULL, and the process
        # dies, if the broker that it asks is not the group's coordinator any more (issue 5040).
        self._group = Consumer(
            {
                "bootstrap.servers": self.cluster.bootstrap_servers,
                "group.id": self.stand.group,
                "isolation.level": "read_uncommitted",  # else open transactions are waited for
                "log_level": 0,
            }
        )
        self._threads: list[threading.Thread] = []
        self._feed = Feed(self.stand.kafka, self.stand.group, baselines={})
        self._workers = [_worker(number, free_port()) for number in (1, 2)]
        self._api = _api(free_port())
        self.services = [*self._workers, _trainer(free_port(), self.stand.folder), self._api]

    def _now(self) -> float:
        return time.monotonic() - self._began

    def _note(self, text: str) -> None:
        self.history.append(f"{self._now():7.1f} {text}")

    # The run

    def run(self, seconds: float) -> None:
        """Break and repair things for so long, then repair all and wait until it is answered."""
        self._feed.watch()
        for service in self.services:
            self._start(service)
        self._until_ready()
        self._threads = [
            threading.Thread(target=self._guarded, args=(work,), name=work.__name__, daemon=True)
            for work in (self._send_clicks, self._observe)
        ]
        for thread in self._threads:
            thread.start()
        next_fault = self._now() + 5.0
        pace = threading.Event()
        while self._now() < seconds and not self._stop.is_set():
            self._supervise()
            for entry in [entry for entry in self._undo if entry[0] <= self._now()]:
                self._undo.remove(entry)
                self._pool.submit(self._guarded, entry[1])
            if self._now() >= next_fault:
                self._random.choice(FAULTS)(self)
                # Some come while another lasts, and some after all have noticed that it is over.
                next_fault = self._now() + self._random.choice((4.0, 10.0, 25.0, 45.0))
            pace.wait(0.1)
        self._repair()
        self._until_ready()
        self._end_threads()

    def _end_threads(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def learn(self) -> None:
        """Wait until a delta, or a retraining, knows clicks that are made now."""
        registry, now = Registry(str(self.stand.registry)), int(time.time())
        self.stand.send(make_clicks(20, seed=10**9 + self.seed))

        def known() -> bool:
            self._supervise()
            pointer = registry.pointer()
            assert pointer is not None
            published = published_at(pointer.version)
            assert published is not None
            delta = registry.newest_delta(pointer.version) or 0
            return max(published.timestamp(), delta) > now + 1

        until(known, "what is clicked now is learned", 60)

    def refused_models(self) -> list[str]:
        """What processes have said of versions and deltas that they could not serve."""
        logs = [path.read_text(errors="replace") for path in self.stand.folder.glob("*.log")]
        return [line for text in logs for line in text.splitlines() if "cannot serve" in line]

    def close(self) -> None:
        """End the threads, and with them the brokers that they have started again.

        The stand ends the other processes.
        """
        self._end_threads()
        self._group.close()
        self._feed.stop()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self.trouble.append(f"{self._now():.1f} {work.__name__} failed: {error!r}")
            self._stop.set()
            raise

    def _send_clicks(self) -> None:
        clicks = iter(_endless(self.seed))
        while not self._stop.wait(1 / 20):
            self.stand.send([next(clicks) for _ in range(RATE // 20)], patiently=True)

    def _until_ready(self) -> None:
        deadline = self._now() + 120
        pace = threading.Event()
        while not all(self._ask(service, "readyz").get("") == "200" for service in self.services):
            self._supervise()
            if self._now() > deadline:
                said = {service.name: self._ask(service, "readyz") for service in self.services}
                raise AssertionError(f"not ready within 120 s of the last fault: {said}")
            pace.wait(0.5)

    def _repair(self) -> None:
        for _, undo in self._undo:
            undo()
        self._undo.clear()

    # Processes

    def _start(self, service: Service) -> None:
        settings = {f"{PREFIX}{name}": value for name, value in service.settings.items()}
        ports = [int(a.rpartition(":")[2]) for a in self.cluster.bootstrap_servers.split(",")]
        prepare = partial(hang_up_on_signal, *ports, self.stand.redis.port)
        service.process = self.stand.start(service.command, prepare=prepare, **settings)
        service.changed_at, service.to_end, service.memory = self._now(), False, []

    def _watch_brokers(self) -> None:
        """A broker that ends although nothing was done to it explains all that follows."""
        for number, broker in enumerate(self.cluster.brokers, 1):
            code = broker.process.poll()
            if code is not None and broker not in self._broken and broker not in self._ended:
                self._ended.add(broker)
                self.trouble.append(f"{self._now():.1f} broker {number} ended by itself ({code})")

    def _supervise(self) -> None:
        self._watch_brokers()
        for service in self.services:
            if service.process is None or service.process.is_alive():
                continue
            if not service.to_end and self._may_not_start(service):
                service.restart_at = self._now() + 2.0
                service.to_end = True
            if not service.to_end:
                service.to_end = True
                code, said = service.process.exitcode, self.stand.log(service.process)[-500:]
                self.trouble.append(f"{self._now():.1f} {service.name} ended ({code}): {said}")
            if self._now() >= service.restart_at:
                self._start(service)

    def _may_not_start(self, service: Service) -> bool:
        """Whether it ended because a server is away at its start, as docs/operations.md says."""
        assert service.process is not None
        calm_for = self._now() - max(self._kafka_changed_at, self._redis_changed_at)
        away = self._broken or not self._redis_up or calm_for < SETTLED_SECONDS
        return (
            service.process.exitcode == 2
            and bool(away)
            and self._now() - service.changed_at < 2 * SETTLED_SECONDS
        )

    def _later(self, seconds: float, what: str, undo: Callable[[], None]) -> None:
        def act() -> None:
            undo()
            self._note(what)

        self._undo.append((self._now() + seconds, act))

    def _some_service(self, *commands: str) -> Service | None:
        there = [
            s
            for s in self.services
            if s.command in commands and not s.paused and s.process and s.process.is_alive()
        ]
        return self._random.choice(there) if there else None

    # Faults

    def kill_service(self) -> None:
        """SIGKILL or SIGTERM, and a supervisor that takes some seconds."""
        self._kill(self._some_service("worker", "trainer"))

    def kill_trainer(self) -> None:
        """The same; now and then within a delta, of which it publishes one each second."""
        self._kill(self._some_service("trainer"))

    def _kill(self, service: Service | None) -> None:
        if service is None:
            return
        seconds = self._random.choice((0.0, 2.0, 15.0))
        name = self._random.choice(("SIGKILL", "SIGTERM"))
        self._note(f"{service.name}: {name}, back after {seconds:.0f} s")
        service.to_end, service.restart_at = True, self._now() + seconds
        self._workers_changed_at = self._now()
        assert service.pid is not None
        os.kill(service.pid, getattr(signal, name))

    def pause_service(self) -> None:
        """SIGSTOP, also beyond a session."""
        service = self._some_service("worker")
        if service is None:
            return
        seconds = self._random.choice((3.0, 14.0, 25.0))
        self._note(f"{service.name}: SIGSTOP for {seconds:.0f} s")
        service.paused = True
        self._workers_changed_at = self._now()
        pause(service.pid)

        def wake() -> None:
            service.changed_at, service.paused = self._now(), False
            self._workers_changed_at = self._now()
            go_on(service.pid)

        self._later(seconds, f"{service.name}: SIGCONT", wake)

    def cut_connections(self) -> None:
        """All of a worker's."""
        service = self._some_service("worker")
        if service is not None and self._now() - service.changed_at > 5:
            self._note(f"{service.name}: connections cut")
            self._workers_changed_at = self._now()
            assert service.pid is not None
            os.kill(service.pid, signal.SIGUSR1)

    def kill_brokers(self) -> None:
        """One or two of three."""
        self._break_brokers("killed", lambda broker: broker.kill(), lambda broker: broker.restart())

    def pause_broker(self) -> None:
        """It is there, and does nothing."""
        self._break_brokers(
            "paused", lambda b: pause(b.process.pid), lambda b: go_on(b.process.pid), most=1
        )

    def _break_brokers(
        self,
        how: str,
        harm: Callable[[Server], None],
        heal: Callable[[Server], None],
        most: int = 2,
    ) -> None:
        if self._broken:
            return
        brokers = self._random.sample(list(self.cluster.brokers), self._random.randint(1, most))
        seconds = self._random.choice((3.0, 12.0, 30.0))
        numbers = [list(self.cluster.brokers).index(broker) + 1 for broker in brokers]
        self._note(f"brokers {numbers} {how} for {seconds:.0f} s")
        self._broken, self._kafka_changed_at = set(brokers), self._now()
        for broker in brokers:
            harm(broker)

        def repair() -> None:
            for broker in brokers:
                heal(broker)
                self._broken.discard(broker)  # with two of three all partitions have leaders
                self._kafka_changed_at = self._now()

        self._later(seconds, f"brokers {numbers} back", repair)

    def kill_redis(self) -> None:
        """It remembers all that it has acknowledged."""
        self._break_redis("killed", self.stand.redis.kill, self.stand.redis.restart)

    def pause_redis(self) -> None:
        """It is there, and does nothing."""
        self._break_redis(
            "paused",
            lambda: pause(self.stand.redis.process.pid),
            lambda: go_on(self.stand.redis.process.pid),
        )

    def _break_redis(self, how: str, harm: Callable[[], None], heal: Callable[[], None]) -> None:
        if not self._redis_up:
            return
        seconds = self._random.choice((2.0, 12.0, 40.0))
        self._note(f"Redis {how} for {seconds:.0f} s")
        self._redis_up, self._redis_changed_at = False, self._now()
        harm()

        def repair() -> None:
            heal()
            self._redis_up, self._redis_changed_at = True, self._now()

        self._later(seconds, "Redis back", repair)

    def swap(self) -> None:
        """Another model, in mid-stream."""
        self._models += 1
        version = publish_model(self.stand.registry, seed=self._models)
        self._note(f"model {version} published")

    # What the services say

    def _observe(self) -> None:
        looked_at_page = 0.0
        while not self._stop.wait(1.0):
            self._note_own_lag()
            for service, checks in zip(
                self.services, self._pool.map(self._look_at, self.services), strict=True
            ):
                self._judge(service, checks)
            self._judge_lag()
            self._judge_page()
            if self._now() - looked_at_page > 10:
                looked_at_page = self._now()
                self._expect("the page opens", self._get(self._api, "/") == 200)
            # Also without Redis: the popular items answer.
            self._expect(
                "the api recommends", self._get(self._api, "/recommendations/user-1") == 200
            )

    def _get(self, service: Service, path: str) -> int:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"http://127.0.0.1:{service.port}{path}", timeout=5).status_code
        return 0

    def _ask(self, service: Service, path: str) -> dict[str, str]:
        """What a path says, and under "" the status; empty without an answer."""
        with contextlib.suppress(httpx.HTTPError, ValueError):
            answer = httpx.get(f"http://127.0.0.1:{service.port}/{path}", timeout=5)
            return {**answer.json(), "": str(answer.status_code)}
        return {}

    def _look_at(self, service: Service) -> dict[str, dict[str, str]]:
        running = not service.paused and service.process is not None and service.process.is_alive()
        if running:
            with contextlib.suppress(OSError):
                service.memory.append((memory_mb(service.pid), open_files(service.pid)))
        return {p: self._ask(service, p) for p in ("healthz", "readyz")} if running else {}

    def _judge(self, service: Service, said: dict[str, dict[str, str]]) -> None:
        """Compare what a service says with what we know; not within a while after a change."""
        now = self._now()
        if (
            not said
            or service.paused
            or service.to_end
            or now - service.changed_at < SETTLED_SECONDS
        ):
            return
        alive, ready = said["healthz"], said["readyz"]
        self._expect(f"{service.name} is alive", alive.get("") == "200")
        redis_for = now - self._redis_changed_at
        kafka_for = now - self._kafka_changed_at
        up = len(self.cluster.brokers) - len(self._broken)
        waits = (
            service.command == "worker"
            and "acknowledged no answer" in ready.get("kafka", "")
            and now - self._workers_changed_at < OUTCOME_SECONDS
        )
        if service.command != "trainer" and redis_for > NOTICED_SECONDS:
            right = (ready.get("redis") == "ok") == self._redis_up
            self._expect(f"{service.name} knows whether Redis is there", right, ready)
        if (up == 3 and kafka_for > SETTLED_SECONDS) or (up == 1 and kafka_for > NOTICED_SECONDS):
            right = (ready.get("kafka") == "ok" or (waits and up == 3)) == (up == 3)
            # Who has no answer that could be acknowledged does not notice if it leads all.
            if up == 1 and not right and (service.command != "worker" or not self._lag_of(service)):
                right = self._survivor_leads_all()
            self._expect(f"{service.name} knows whether Kafka is there", right, ready)
        if self._redis_up and up == 3 and min(redis_for, kafka_for) > SETTLED_SECONDS:
            self._expect(f"{service.name} is ready", ready.get("") == "200" or waits, ready)

    def _survivor_leads_all(self) -> bool:
        """Whether the one broker that is up leads all partitions of the clicks topic."""
        (up,) = {*self.cluster.brokers} - self._broken
        number = list(self.cluster.brokers).index(up) + 1
        topic = self.stand.kafka.clicks_topic
        with contextlib.suppress(KafkaException):
            found = self._group.list_topics(topic, timeout=3).topics[topic].partitions.values()
            return {partition.leader for partition in found} == {number}
        return False

    def _note_own_lag(self) -> None:
        """What is sent less what is committed, by clients and sums of our own."""
        topic = self.stand.kafka.clicks_topic
        asked = [TopicPartition(topic, number) for number in range(self.stand.kafka.partitions)]
        try:
            places = self._group.committed(asked, timeout=3)
        except KafkaException:
            return
        committed = sum(max(0, place.offset) for place in places)
        self._own_lags.append((self._now(), max(0, self.stand.sent - committed)))

    def _true_lags(self, seconds: float) -> tuple[int, int] | None:
        """The least and the largest lag lately, as far as we know; clicks on their way blur it."""
        lately = [lag for at, lag in list(self._own_lags) if self._now() - at <= seconds]
        return (min(lately) - RATE, max(lately) + RATE) if len(lately) >= seconds / 2 else None

    def _judge_lag(self) -> None:
        now = self._now()
        if (
            self._broken
            or now - self._kafka_changed_at < SETTLED_SECONDS
            or any(
                w.paused or w.to_end or now - w.changed_at < SETTLED_SECONDS for w in self._workers
            )
        ):
            return
        shown = [self._lag_of(worker) for worker in self._workers]
        true = self._true_lags(LAG_SECONDS)
        if true is not None and None not in shown:
            total = sum(lag for lag in shown if lag is not None)
            self._expect("the lag of the workers", true[0] <= total <= true[1], (total, true))

    def _lag_of(self, worker: Service) -> float | None:
        """What it shows: 0 without partitions, and while Kafka does not tell; None: no metrics."""
        with contextlib.suppress(httpx.HTTPError):
            text = httpx.get(f"http://127.0.0.1:{worker.port}/metrics", timeout=5).text
            return sum(
                sample.value
                for family in text_string_to_metric_families(text)
                if family.name == "nextclick_consumer_lag"
                for sample in family.samples
            )
        return None

    def _judge_page(self) -> None:
        """The thread behind the page, in this process."""
        stream = self._feed.watch()
        if self._broken or self._now() - self._kafka_changed_at < SETTLED_SECONDS:
            return
        with self._feed.lock:
            lags = [point.lag for point in list(stream.points)[-1:]]
        true = self._true_lags(LAG_SECONDS)
        if true is not None and lags and lags[0] is not None:
            self._expect("the lag on the page", true[0] <= lags[0] <= true[1], (lags[0], true))
        self._expect("the page has no trouble", not self._feed.error, self._feed.error)

    def _expect(self, what: str, right: bool, seen: object = "") -> None:
        self.judged[what] = self.judged.get(what, 0) + 1
        wrong = 0 if right else self._wrong_in_a_row.get(what, 0) + 1
        self._wrong_in_a_row[what] = wrong
        if wrong == WRONG_IN_A_ROW:
            self.trouble.append(f"{self._now():.1f} not true: {what} {seen}")


FAULTS: list[Callable[[Soak], None]] = [
    Soak.kill_service,
    Soak.kill_service,
    Soak.kill_trainer,
    Soak.pause_service,
    Soak.cut_connections,
    Soak.kill_brokers,
    Soak.pause_broker,
    Soak.kill_redis,
    Soak.pause_redis,
    Soak.swap,
]


def _worker(number: int, port: int) -> Service:
    settings = {"WORKER__METRICS_PORT": str(port), "WORKER__INSTANCE_ID": f"w{number}"}
    return Service(f"worker {number}", "worker", port, settings)


def _api(port: int) -> Service:
    return Service("api", "api", port, {"API__PORT": str(port)})


def _trainer(port: int, folder: Path) -> Service:
    settings = {
        "TRAINER__METRICS_PORT": str(port),
        "TRAINER__EVENT_LOG": str(folder / "event_log"),
        "TRAINER__EVERY_SECONDS": "60",
        "TRAINER__MIN_CLICKS": "500",
        "TRAINER__WINDOW_CLICKS": "5000",
        "TRAINER__MAX_EPOCHS": "1",
        "TRAINER__TORCH_THREADS": "1",
        "TRAINER__DELTA_SECONDS": "1",
        "REGISTRY__KEEP_DELTA_SECONDS": "1e9",  # each list is computed again in the end
    }
    return Service("trainer", "trainer", port, settings)


def _endless(seed: int) -> Iterator[Click]:
    """Clicks of ever new users, each of whom clicks for some minutes."""
    part = 0
    while True:
        part += 1
        for click in make_clicks(10_000, users=300, seed=1000 * seed + part):
            yield click.model_copy(update={"user_id": f"{click.user_id}-{part}"})
