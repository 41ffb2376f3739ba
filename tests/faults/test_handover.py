"""How long clicks wait for their answers while workers come, go and die: the bounds of the docs.

Clicks flow into every partition at a steady rate, so the longest wait of one is the longest span in
which its partition was not answered for. `make faults` prints the table of docs/guarantees.md.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerProcess

import pytest
from confluent_kafka import libversion

from nextclick.shared.kafka import Publisher, TopicReader
from nextclick.shared.kafka.membership import BROKERS_SESSION_TIMEOUT_MS, SESSION_TIMEOUT_MS
from nextclick.shared.messages import OutMessage
from nextclick.shared.schemas import Click, Recommendation
from tests.faults.conftest import GUARANTEES, MakeStand, ReportWait
from tests.faults.stand import Stand, Stopwatch, go_on, kill, pause
from tests.faults.test_scaling import CLIENT_CONFIG, CURRENT, INSTANCE_ID, shared_out
from tests.waiting import until

pytestmark = pytest.mark.long

INTERVAL_SECONDS = 0.04
"""Between two clicks of a partition."""
SETTLED_CLICKS = 50
"""So many of each partition flow before something happens, and after it."""
SESSION_SECONDS = SESSION_TIMEOUT_MS / 1000
BUSY_SECONDS = 3.0
"""A machine that does something else, too, may take so much longer than the bound."""

# With KIP-848 these are the broker's: group.consumer.session.timeout.ms and .heartbeat.interval.ms.
BROKERS_SESSION_SECONDS = BROKERS_SESSION_TIMEOUT_MS / 1000
BROKERS_HEARTBEAT_SECONDS = 5.0

CHANGE = {"classic": 1.0, "consumer": BROKERS_HEARTBEAT_SECONDS + 1.0}
"""The bound where somebody comes or goes, and says so, by protocol."""
DEATH = {
    "classic": SESSION_SECONDS + 1.0,
    "consumer": BROKERS_SESSION_SECONDS + BROKERS_HEARTBEAT_SECONDS + 1.0,
}
RESTART = {
    "classic": 3.0,
    "consumer": DEATH["consumer"],  # a name is free again when its session is over
}


class Stream:
    """Clicks to each partition at a steady rate, and when each was answered."""

    def __init__(self, stand: Stand) -> None:
        self._stand = stand
        self._publisher = Publisher(stand.kafka)
        self._reader = TopicReader(stand.kafka, [stand.kafka.recommendations_topic])
        self._thread = threading.Thread(target=self._run)
        self._stop = threading.Event()
        self._sent: dict[str, float] = {}
        self._answered: dict[str, float] = {}
        self._begins = 0

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            self._send()
            due += INTERVAL_SECONDS
            while (left := due - time.monotonic()) > 0:
                self._read(left)

    def _send(self) -> None:
        number = len(self._sent)
        for partition in range(self._stand.kafka.partitions):
            click = Click(
                event_id=f"{number}-{partition}",
                user_id=f"user-{partition}-{number % 50}",
                item_id=str(1 + number % 50),
                timestamp=int(time.time() * 1000),
            )
            key, value = click.user_id.encode(), click.model_dump_json().encode()
            topic = self._stand.kafka.clicks_topic
            self._sent[click.event_id] = time.monotonic()
            self._publisher.send([OutMessage(topic, key, value, partition=partition)])
        self._publisher.serve()

    def _read(self, timeout: float) -> None:
        messages = self._reader.poll(timeout=timeout)
        now = time.monotonic()
        for message in messages:
            answer = Recommendation.model_validate_json(message.value or b"")
            self._answered.setdefault(answer.event_id, now)

    def begin(self) -> None:
        """Look at clicks from now on."""
        self._begins = len(self._sent)

    def settle(self) -> None:
        """Return when some more clicks have been sent."""
        goal = len(self._sent) + SETTLED_CLICKS * self._stand.kafka.partitions
        until(lambda: len(self._sent) >= goal, "clicks flow")

    def longest_wait(self) -> float:
        """Of the clicks looked at; waits until all are answered, and fails if some are not."""
        self._stop.set()
        self._thread.join()
        until(lambda: self._read(0.1) or self._sent.keys() <= self._answered.keys(), "all answered")
        looked_at = list(self._sent)[self._begins :]
        return max(self._answered[click] - self._sent[click] for click in looked_at)

    @contextmanager
    def flowing(self) -> Iterator[None]:
        """Go on meanwhile."""
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join()
            self._reader.close()


Begin = Callable[[], None]
"""Called when the workers share the partitions: what follows is measured."""


def sigterm(ours: Stand, begin: Begin) -> None:
    first, second = two(ours)
    begin()
    first.terminate()
    until(lambda: shared_out(ours, second), "the other has all")


def sigkill(ours: Stand, begin: Begin) -> None:
    first, second = two(ours)
    begin()
    kill(first)
    until(lambda: shared_out(ours, second), "the other has all")


def static_restart(ours: Stand, begin: Begin) -> None:
    first, second = (ours.worker(**{INSTANCE_ID: name}) for name in ("a", "b"))
    until(lambda: shared_out(ours, first, second), "two share")
    begin()
    kill(first)
    log = ours.cold_worker(**{INSTANCE_ID: "a"})
    until(lambda: "assigned partitions [" in log.read_text(), "it has partitions again")


def joins(ours: Stand, begin: Begin) -> None:
    first = ours.worker()
    until(lambda: shared_out(ours, first), "the first has all")
    begin()
    second = ours.worker()
    until(lambda: shared_out(ours, first, second), "two share")
    third = ours.worker()
    until(lambda: shared_out(ours, first, second, third), "three share")


def three_join_at_once(ours: Stand, begin: Begin) -> None:
    first = ours.worker()
    until(lambda: shared_out(ours, first), "the first has all")
    begin()
    others = [ours.worker() for _ in range(3)]
    until(lambda: shared_out(ours, first, *others), "four share")


def sigstop(ours: Stand, begin: Begin) -> None:
    first, second = two(ours)
    begin()
    pause(first.pid)
    until(lambda: shared_out(ours, second), "the other has all")
    go_on(first.pid)
    until(lambda: shared_out(ours, first, second), "two share again")


def two(ours: Stand) -> tuple[ForkServerProcess, ForkServerProcess]:
    """Start two workers, and wait until they share the partitions."""
    first, second = ours.worker(), ours.worker()
    until(lambda: shared_out(ours, first, second), "two share")
    return first, second


def start_seconds(ours: Stand) -> float:
    """How long a process takes to import what a worker needs, on the machine as it is now."""
    watch = Stopwatch()
    command = [sys.executable, "-c", "import nextclick.services.worker.main"]
    subprocess.run(command, env=ours.environ, cwd=ours.folder, check=True)
    return watch.seconds()


@pytest.mark.parametrize("guarantee", GUARANTEES)
@pytest.mark.parametrize("protocol", ["classic", *["consumer"] * (libversion()[1] >= CURRENT)])
@pytest.mark.parametrize(
    ("event", "what", "bounds"),
    [
        pytest.param(sigterm, "SIGTERM", CHANGE, id="SIGTERM"),
        pytest.param(sigkill, "SIGKILL", DEATH, id="SIGKILL"),
        pytest.param(static_restart, "SIGKILL, named, started again", RESTART, id="restart"),
        pytest.param(joins, "two join one by one", CHANGE, id="joins"),
        pytest.param(three_join_at_once, "three join at once", CHANGE, id="join at once"),
        pytest.param(sigstop, "SIGSTOP, SIGCONT", DEATH, id="SIGSTOP"),
    ],
)
def test_clicks_wait_no_longer_than_this(
    event: Callable[[Stand, Begin], None],
    what: str,
    bounds: dict[str, float],
    protocol: str,
    guarantee: str,
    stand: MakeStand,
    report_wait: ReportWait,
) -> None:
    ours = stand(guarantee)
    ours.environ[INSTANCE_ID] = ""
    if protocol == "consumer":  # KIP-848
        ours.environ[CLIENT_CONFIG] = json.dumps({"group.protocol": "consumer"})
    # A start takes most of the bound on an idle machine, and several times that on a busy one.
    allowed = bounds[protocol] + BUSY_SECONDS
    allowed += start_seconds(ours) if event is static_restart else 0.0
    stream = Stream(ours)

    def begin() -> None:
        stream.settle()
        stream.begin()

    with stream.flowing():
        event(ours, begin)
        stream.settle()
        seconds = stream.longest_wait()
    report_wait(what, protocol, guarantee, seconds)
    assert seconds < allowed
