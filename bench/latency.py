"""How long does a shopper wait? Click to recommendation, seen from outside, at a given rate.

    nextclick bench latency --rate 200,1000 --catalogue 10k

Broker, Redis, one worker, the load generator and the reader that takes the time all share this
machine. The load is open-loop: clicks are sent on schedule whatever the answers do, and a click's
time starts when it was due. Each rate is run twice: alone, and with a retrain in the background
and a new model version halfway.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.models import random_checkpoint
from services import local
from services.live import Live
from services.local import Processes
from services.watcher import DIGEST_SECONDS, Watcher
from shared.errors import NextclickError
from shared.kafka import ensure_topics
from shared.registry import Registry
from shared.settings import PREFIX, KafkaSettings

WARM_UP_SECONDS = 3.0
"""Of the load, left out: connections, first batches, a Redis without sessions."""
_DRAIN_SECONDS = 60.0
_IDLE_SECONDS = 3.0


@dataclass(frozen=True)
class Row:
    """One run."""

    rate: float
    items: int
    swap: bool
    """Whether a retrain and a swap were in it."""
    clicks: int
    swaps: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    idle_cpu: float
    """Share of a core that the worker takes before the first click; not a number but on Linux."""


def measure(rate: float, items: int, seconds: float, *, swap: bool) -> Row:
    """Run everything once; raises NextclickError if a click stays unanswered."""
    folder = Path(tempfile.mkdtemp(prefix="nextclick-bench-"))
    try:
        with local.servers(folder) as environ:
            return _measure(folder, environ, rate, items, seconds, swap)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _measure(
    folder: Path, environ: dict[str, str], rate: float, items: int, seconds: float, swap: bool
) -> Row:
    kafka = KafkaSettings(bootstrap_servers=environ[f"{PREFIX}KAFKA__BOOTSTRAP_SERVERS"])
    ensure_topics(kafka, [kafka.clicks_topic, kafka.recommendations_topic, kafka.dlq_topic])
    registry = Registry(environ[f"{PREFIX}REGISTRY__URL"])
    registry.publish(random_checkpoint(items, seed=0))
    next_model = random_checkpoint(items, seed=1) if swap else None
    live = Live(rivals={})
    watcher = Watcher(kafka, live)
    services = Processes(folder, environ)
    try:
        services.start("worker", ["worker"])
        services.wait_for_partitions()
        idle_cpu = _cpu_share(services.pid("worker"))
        load = {"rate": rate, "seconds": WARM_UP_SECONDS + seconds, "items": items}
        arguments = [text for name, value in load.items() for text in (f"--{name}", str(value))]
        services.start("load", arguments, module="bench.traffic")
        began = time.monotonic()
        retrain_at, swap_at = WARM_UP_SECONDS + seconds / 3, WARM_UP_SECONDS + seconds / 2
        retraining = False
        while not services.ended("load"):
            services.check()
            watcher.digest()
            passed = time.monotonic() - began
            if swap and not retraining and passed > retrain_at:
                services.start("trainer", ["trainer", "--once"], background=True)
                retraining = True
            if next_model is not None and passed > swap_at:
                registry.publish(next_model)
                next_model = None
            time.sleep(DIGEST_SECONDS)
        watcher.drain(_DRAIN_SECONDS)
    finally:
        services.kill_all()
        watcher.close()
    if live.missing or len(live.latencies_ms) <= rate * WARM_UP_SECONDS:
        raise NextclickError(f"{live.missing} of {len(live.clicks)} clicks were not answered")
    latencies = np.array(live.latencies_ms[int(rate * WARM_UP_SECONDS) :])
    p50, p90, p99 = np.percentile(latencies, [50, 90, 99])
    return Row(
        *(rate, items, swap, len(latencies), live.swaps),
        *(p50, p90, p99, float(latencies.max()), idle_cpu),
    )


def _cpu_share(pid: int) -> float:
    """What part of a core a process takes, watched for _IDLE_SECONDS after as long a rest."""
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():
        return float("nan")

    def used() -> float:
        user, system = stat.read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    time.sleep(_IDLE_SECONDS)
    before = used()
    time.sleep(_IDLE_SECONDS)
    return (used() - before) / _IDLE_SECONDS
