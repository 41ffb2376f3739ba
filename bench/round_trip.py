"""Measures the latency from click to answer of one process, as an external reader sees it.

Each run has its own topics, consumer group and session keys, on a broker that all runs share.
The steps of a run:

1. WARM_UP_CLICKS clicks are published and answered at full speed, so that connections, code and
   sessions are warm, and users have full histories.
2. Without clicks, the CPU use of the idle process is measured.
3. Clicks come on schedule (bench/load.py). Those of the first LEAD_IN_SECONDS do not count.
4. Arrival times of answers (bench/arrivals.py) are joined with the times when clicks were due.

Load generator, answering process and reader are separate processes; this one sleeps meanwhile. All
share the machine with broker and Redis.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nextclick.bench import arrivals, load
from nextclick.bench.contestants import ECHO, Contestant, own_names
from nextclick.services.demo import local_servers
from nextclick.services.demo.local_servers import Processes
from nextclick.shared.embedded.jars import kafka_jars
from nextclick.shared.errors import NextclickError
from nextclick.shared.kafka import Publisher, ensure_topics
from nextclick.shared.messages import of_user
from nextclick.shared.runtime.settings import PREFIX, KafkaSettings

WARM_UP_CLICKS = 5_000
LEAD_IN_SECONDS = 2.0
IDLE_SECONDS = 3.0
_TICK_SECONDS = 0.1
_BROKER_WARM_UP = (2_000, 10.0)
"""Clicks per second, and seconds."""

Event = tuple[float, Callable[[Processes], None]]
"""An action during the run, and its time in seconds after the first click that counts."""


@dataclass(frozen=True)
class Percentiles:
    """Percentiles of the latency in milliseconds, and the number of clicks."""

    clicks: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True)
class RoundTrip:
    """The figures of a run."""

    latency: Percentiles
    duplicates: int
    """Answers beyond the first to a click."""
    versions: tuple[str, ...]
    """Model versions, in order of their first answer to a click that counts."""
    idle_cpu: float
    """Share of a core that the process uses without clicks; NaN except on Linux."""
    late_p99_ms: float
    """p99 delay of the load generator; included in the latencies."""


@dataclass(frozen=True)
class Servers:
    """A warm broker and Redis."""

    folder: Path
    """Folder for logs and results of the processes."""
    environ: dict[str, str]
    """Environment variables for processes that use the servers."""
    kafka_version: str
    warmed_with: int
    """Number of clicks, and of answers, that the broker had handled before any measurement."""

    def kafka(self, name: str) -> KafkaSettings:
        """Kafka settings with the topics of one run."""
        names = own_names(name)
        return KafkaSettings(
            bootstrap_servers=self.environ[f"{PREFIX}KAFKA__BOOTSTRAP_SERVERS"],
            clicks_topic=names[f"{PREFIX}KAFKA__CLICKS_TOPIC"],
            recommendations_topic=names[f"{PREFIX}KAFKA__RECOMMENDATIONS_TOPIC"],
        )

    @property
    def facts(self) -> dict[str, str]:
        """The conditions of the measurement, for tables and JSON."""
        return {
            "broker": f"Apache Kafka {self.kafka_version}, one broker on this machine",
            "warm": f"the broker by {self.warmed_with:,} clicks and answers of the echo before the "
            f"first run; each run by {WARM_UP_CLICKS:,} clicks of its own",
        }


@contextmanager
def warm_servers() -> Iterator[Servers]:
    """Start broker and Redis, and warm the broker with some ten thousand clicks of the echo.

    A broker is two to four times slower right after its start.
    """
    folder = Path(tempfile.mkdtemp(prefix="nextclick-bench-"))
    rate, seconds = _BROKER_WARM_UP
    clicks = WARM_UP_CLICKS + int((LEAD_IN_SECONDS + seconds) * rate)
    try:
        with local_servers.servers(folder) as environ:
            servers = Servers(folder, environ, _kafka_version(), clicks)
            round_trip("warm-up", ECHO, servers, rate, seconds)
            yield servers
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _kafka_version() -> str:
    """Version of the embedded broker: 4.1.0 for kafka_2.13-4.1.0.jar."""
    names = (jar.stem for jar in kafka_jars())
    return next(name.partition("-")[2] for name in names if re.match(r"kafka_\d", name))


def round_trip(
    name: str,
    contestant: Contestant,
    servers: Servers,
    rate: float,
    seconds: float,
    *,
    items: int = 10_000,
    events: Sequence[Event] = (),
) -> RoundTrip:
    """Measure one run; `name` must be unique. seconds: length of the part that counts.

    Raises NextclickError if a process dies or a click is not answered.
    """
    lead_in, count = int(LEAD_IN_SECONDS * rate), int((LEAD_IN_SECONDS + seconds) * rate)
    settings = {**servers.environ, **own_names(name)}
    kafka = servers.kafka(name)
    ensure_topics(kafka, kafka.topics)
    output = servers.folder / f"{name}.arrivals"
    processes = Processes(servers.folder, settings)
    reader, sender = f"{name}-arrivals", f"{name}-load"
    try:
        _publish_warm_up(kafka, items)
        contestant.start(name, processes)
        processes.start(
            reader,
            ["--warm-up", f"{WARM_UP_CLICKS}", "--clicks", f"{count}", "--output", f"{output}"],
            module="nextclick.bench.arrivals",
        )
        processes.wait_for(reader, "(warm)")
        idle_cpu = _cpu_share(processes.pid(name))
        processes.start(
            sender,
            ["--rate", f"{rate}", "--count", f"{count}", "--items", f"{items}"],
            module="nextclick.bench.load",
        )
        start = float(processes.wait_for(sender, r"first click at (\S+)\n"))
        due = sorted(events, key=lambda event: event[0])
        while not processes.ended(reader):
            processes.check()
            while due and time.time() > start + LEAD_IN_SECONDS + due[0][0]:
                due.pop(0)[1](processes)
            time.sleep(_TICK_SECONDS)
        late = float(processes.wait_for(sender, r"late p50 \S+ ms, p99 (\S+) ms"))
    finally:
        processes.kill_all()
    joined = join(arrivals.load(output), start=start, rate=rate, clicks=range(lead_in, count))
    output.unlink()
    return RoundTrip(
        percentiles(joined.latencies_ms), joined.duplicates, joined.versions, idle_cpu, late
    )


@dataclass(frozen=True)
class Joined:
    """The join of clicks and answers."""

    latencies_ms: npt.NDArray[np.float64]
    duplicates: int
    versions: tuple[str, ...]


def join(
    arrived: Iterable[tuple[float, bytes]], *, start: float, rate: float, clicks: range
) -> Joined:
    """Join answers with clicks: latency from when click i was due, start + i / rate, in ms.

    arrived: (epoch seconds, value) of each answer. clicks: numbers of the clicks that count. Raises
    NextclickError if one of them is not answered.
    """
    first: dict[int, float] = {}
    versions: dict[str, None] = {}
    duplicates = 0
    for when, value in arrived:
        answer = json.loads(value)
        number = load.number_of(answer["event_id"])
        if number is None or number not in clicks:
            continue
        if number in first:
            duplicates += 1
            continue
        first[number] = when - start - number / rate
        versions[answer["model_version"]] = None
    if missing := len(clicks) - len(first):
        raise NextclickError(f"{missing} of {len(clicks)} clicks were not answered")
    return Joined(1000 * np.array(list(first.values())), duplicates, tuple(versions))


def percentiles(latencies_ms: npt.NDArray[np.float64]) -> Percentiles:
    """Compute the percentiles."""
    p50, p90, p99 = np.percentile(latencies_ms, [50, 90, 99]).tolist()
    return Percentiles(len(latencies_ms), p50, p90, p99, float(latencies_ms.max()))


def _publish_warm_up(kafka: KafkaSettings, items: int) -> None:
    publisher = Publisher(kafka)
    now_ms = int(time.time() * 1000)
    make = load.clicks(items, WARM_UP_CLICKS, seed=0)
    publisher.send(
        of_user(kafka.clicks_topic, make(number, f"warm-{number:031d}", now_ms))
        for number in range(WARM_UP_CLICKS)
    )
    publisher.wait_acknowledged()


def _cpu_share(pid: int) -> float:
    """Share of a core that a process uses over IDLE_SECONDS, measured after one second of rest."""
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():
        return float("nan")

    def used() -> float:
        user, system = stat.read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    time.sleep(1.0)
    before = used()
    time.sleep(IDLE_SECONDS)
    return (used() - before) / IDLE_SECONDS
