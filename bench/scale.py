"""Scaling: Redis by number of users, throughput by number of workers.

    nextclick bench scale --users 10k,100k --workers 1,2

- *users*: sessions of CLICKS_PER_USER clicks each, appended in micro-batches as the worker does.
  Bytes are Redis's used memory, minus that without sessions.
- *workers*: several worker processes answer a filled topic, on this machine with broker and Redis.
  Throughput is measured on the recommendations topic, after every worker has its partitions.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nextclick.bench.contestants import own_names
from nextclick.bench.models import random_checkpoint
from nextclick.bench.round_trip import Servers
from nextclick.bench.traffic import fill, item_id
from nextclick.services.demo.local_servers import Processes
from nextclick.shared import embedded
from nextclick.shared.errors import NextclickError
from nextclick.shared.kafka import TopicReader, ensure_topics
from nextclick.shared.redis import RedisSessions
from nextclick.shared.registry import Registry
from nextclick.shared.runtime.settings import PREFIX, Settings
from nextclick.shared.schemas import Click

CLICKS_PER_USER = 5
_ITEMS = 10_000
_SHOPPERS = 10_000
_HOUR_MS = 3_600_000
_SILENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Users:
    """Figures for a number of sessions in Redis."""

    users: int
    clicks_per_user: int
    bytes_per_session: float
    appends_per_second: float


@dataclass(frozen=True)
class Workers:
    """Figures for a number of worker processes."""

    workers: int
    clicks: int
    clicks_per_second: float


def measure_users(users: int, clicks_per_user: int = CLICKS_PER_USER) -> Users:
    """Fill a fresh Redis with sessions, one click per user at a time, in random order."""
    with tempfile.TemporaryDirectory() as folder:
        server = embedded.start_redis(Path(folder))
        try:
            return _fill(f"redis://{server.address}/0", users, clicks_per_user)
        finally:
            server.kill()


def _fill(redis_url: str, users: int, clicks_per_user: int) -> Users:
    batch = Settings().worker.max_batch
    rng = np.random.default_rng(0)
    sessions = RedisSessions(
        redis_url,
        key_prefix=Settings().redis.key_prefix,
        gap_ms=_HOUR_MS,
        ttl_seconds=86_400,
        timeout_seconds=30.0,
    )
    empty = _used_bytes(sessions)
    append_seconds = 0.0
    for turn in range(clicks_per_user):
        order = rng.permutation(users)
        items = rng.integers(1, _ITEMS + 1, users)
        for start in range(0, users, batch):
            clicks = [
                Click(
                    event_id=f"{turn}-{user}",
                    user_id=f"user-{user}",
                    item_id=item_id(item),
                    timestamp=1000 * turn,
                )
                for user, item in zip(
                    order[start : start + batch].tolist(),
                    items[start : start + batch].tolist(),
                    strict=True,
                )
            ]
            began = time.perf_counter()
            sessions.append(clicks)
            append_seconds += time.perf_counter() - began
    used = _used_bytes(sessions) - empty
    sessions.close()
    return Users(users, clicks_per_user, used / users, users * clicks_per_user / append_seconds)


def _used_bytes(sessions: RedisSessions) -> int:
    return sum(server.used_bytes for server in sessions.servers())


def measure_workers(servers: Servers, workers: int, clicks: int) -> Workers:
    """Let several workers answer a topic; raises NextclickError if one of them dies."""
    name = f"scale-{workers}"
    environ = {**servers.environ, **own_names(name)}
    environ[f"{PREFIX}REGISTRY__URL"] = str(servers.folder / f"{name}-registry")
    kafka = servers.kafka(name)
    ensure_topics(kafka, kafka.topics)
    Registry(environ[f"{PREFIX}REGISTRY__URL"]).publish(random_checkpoint(_ITEMS))
    processes = Processes(servers.folder, environ)
    answers = TopicReader(kafka, [kafka.recommendations_topic])
    try:
        for number in range(workers):
            processes.start(f"{name}-worker-{number}", ["worker"])
        processes.wait_for_partitions()
        fill(kafka, _ITEMS, _SHOPPERS, clicks)
        rate = _answered_per_second(answers, processes, clicks)
    finally:
        processes.kill_all()
        answers.close()
    return Workers(workers, clicks, rate)


def _answered_per_second(answers: TopicReader, processes: Processes, clicks: int) -> float:
    """Answers per second after the first quarter, when every worker is at full speed."""
    counted = [(time.monotonic(), 0)]
    while counted[-1][1] < clicks:
        processes.check()
        seen = counted[-1][1] + len(answers.poll())
        if seen > counted[-1][1]:
            counted.append((time.monotonic(), seen))
        elif time.monotonic() - counted[-1][0] > _SILENCE_SECONDS:
            raise NextclickError(f"no further answers after {seen} of {clicks}")
    (began, before), (ended, after) = next(c for c in counted if c[1] >= clicks / 4), counted[-1]
    return (after - before) / (ended - began)


def plot(users: list[Users], workers: list[Workers], file: Path) -> None:
    """Plot memory and speed of Redis by users, and throughput by workers."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.5), layout="constrained")
    memory, pace, answered = figure.subplots(1, 3)
    sizes = [row.users for row in users]
    memory.plot(sizes, [row.bytes_per_session for row in users], marker="o")
    memory.set(xscale="log", xlabel="users", ylabel="bytes per session in Redis")
    pace.plot(sizes, [row.appends_per_second for row in users], marker="o")
    pace.set(xscale="log", xlabel="users", ylabel="appends a second")
    counts = [row.workers for row in workers]
    answered.plot(counts, [row.clicks_per_second for row in workers], marker="o")
    answered.set(xticks=counts, xlabel="workers", ylabel="clicks answered a second")
    for axes in (memory, pace, answered):
        axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
    figure.savefig(file, dpi=120)
