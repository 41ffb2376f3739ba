"""Our worker and its twin written with Quix Streams, in turns on the same clicks.

    nextclick bench peers --catalogue 50,10k

A clicks topic is filled beforehand. Each contestant is a process that answers it from its
beginning, as a group and with state of its own, onto a topic of its own. The clock is the same for
both: a reader outside notes when answers arrive. Both must give the same answers, or there is no
result. The *floor* is each of them with a scorer that costs nothing: reading, state and writing.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

from bench.models import random_checkpoint
from bench.peers.interpreter import versions
from bench.peers.passes import Contestant, answer_all, compare
from bench.traffic import traffic
from bench.worker import USERS
from services import local
from services.simulator.publish import publish_live
from shared.kafka import Publisher, ensure_topics
from shared.registry import Registry
from shared.settings import PREFIX, KafkaSettings

FLOOR_CLICKS = 5
"""Times as many clicks for the floor, which is faster."""
_FILL_SECONDS = 1.0


@dataclass(frozen=True)
class Row:
    """One catalogue; medians over the rounds, ratios within each round."""

    items: int
    clicks: int
    rounds: int
    peer: dict[str, str]
    """Versions in the twin's interpreter."""
    ours: float
    """Clicks per second, as in the next three."""
    theirs: float
    our_floor: float
    their_floor: float
    ratio: float
    """How many times as many clicks a second our worker answers."""
    floor_ratio: float


def measure(items: int, clicks: int, rounds: int, python: Path, device: str) -> Row:
    """Measure one catalogue; raises NextclickError if the two do not give the same answers."""
    peer = versions(python)
    folder = Path(tempfile.mkdtemp(prefix="nextclick-bench-"))
    try:
        with local.servers(folder) as environ:
            environ[f"{PREFIX}DEVICE"] = device
            Registry(environ[f"{PREFIX}REGISTRY__URL"]).publish(random_checkpoint(items))
            return _measure(folder, environ, items, clicks, rounds, python, peer)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _measure(
    folder: Path,
    environ: dict[str, str],
    items: int,
    clicks: int,
    rounds: int,
    python: Path,
    peer: dict[str, str],
) -> Row:
    server = environ[f"{PREFIX}KAFKA__BOOTSTRAP_SERVERS"]
    counts = {"model": clicks, "floor": clicks * FLOOR_CLICKS}
    topics = {
        k: KafkaSettings(bootstrap_servers=server, clicks_topic=f"{k}-clicks") for k in counts
    }
    for kind, count in counts.items():
        _fill(topics[kind], items, count)
    rates: dict[tuple[str, str], list[float]] = {}
    for number in range(rounds):
        for kind, count in counts.items():
            contestants = {
                "ours": Contestant("bench.peers.our_worker", None, floor=kind == "floor"),
                "theirs": Contestant("bench.peers.quix_worker", python, floor=kind == "floor"),
            }
            passes = {
                name: answer_all(
                    f"{name}-{kind}-{number}", who, folder, environ, topics[kind], count
                )
                for name, who in contestants.items()
            }
            compare(passes["ours"].answers, passes["theirs"].answers)
            for name, done in passes.items():
                rates.setdefault((name, kind), []).append(done.clicks_per_second)
    return Row(
        items=items,
        clicks=clicks,
        rounds=rounds,
        peer=peer,
        ours=statistics.median(rates["ours", "model"]),
        theirs=statistics.median(rates["theirs", "model"]),
        our_floor=statistics.median(rates["ours", "floor"]),
        their_floor=statistics.median(rates["theirs", "floor"]),
        ratio=_paired(rates["ours", "model"], rates["theirs", "model"]),
        floor_ratio=_paired(rates["ours", "floor"], rates["theirs", "floor"]),
    )


def _paired(ours: list[float], theirs: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def _fill(kafka: KafkaSettings, items: int, clicks: int) -> None:
    ensure_topics(kafka, [kafka.clicks_topic])
    publish_live(
        traffic(items, USERS, seed=0),
        Publisher(kafka),
        kafka.clicks_topic,
        rate=clicks / _FILL_SECONDS,
        seconds=_FILL_SECONDS,
        seed=0,
        stop=threading.Event(),
    )
