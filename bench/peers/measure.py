"""Our worker and one written with Quix Streams, in turns on the same clicks.

    nextclick bench peers --catalogue 50,10k

Throughput: a clicks topic is filled first. Each contestant is a process that answers it from its
beginning, with its own consumer group, state and recommendations topic. An external reader records
when answers arrive. If the answers of the two differ, the run fails. The *floor* is a contestant
with a scorer that costs nothing: reading, state and writing only.

Latency: clicks come on schedule, as in bench/round_trip.py, and each contestant and the echo
(bench/echo.py) answer them, one after the other.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from pathlib import Path

from nextclick.bench.contestants import ECHO, Contestant
from nextclick.bench.models import random_checkpoint
from nextclick.bench.peers.interpreter import versions
from nextclick.bench.peers.passes import answer_all, compare
from nextclick.bench.round_trip import Percentiles, Servers, round_trip
from nextclick.bench.traffic import fill
from nextclick.bench.worker import USERS
from nextclick.shared.registry import Registry
from nextclick.shared.runtime.settings import PREFIX

RATES = (200.0, 1000.0)
"""Clicks per second of the latency runs."""
FLOOR_CLICKS = 5
"""Factor on the number of clicks for the floor, which is faster."""


@dataclass(frozen=True)
class Latency:
    """Latency from click to answer at one rate."""

    rate: float
    echo: Percentiles
    nextclick: Percentiles
    quix: Percentiles
    """It grows during the run if the Quix Streams worker answers fewer clicks/s than come."""


@dataclass(frozen=True)
class Row:
    """Figures for one catalogue: medians over the rounds; ratios are taken within each round."""

    items: int
    clicks: int
    rounds: int
    peer: dict[str, str]
    """Package versions in the interpreter of the Quix Streams worker."""
    nextclick: float
    """Clicks per second, as the next three fields."""
    quix: float
    nextclick_floor: float
    quix_floor: float
    ratio: float
    """nextclick / quix."""
    floor_ratio: float
    latency: list[Latency]


def measure(
    servers: Servers,
    items: int,
    clicks: int,
    rounds: int,
    python: Path,
    device: str,
    seconds: float,
) -> Row:
    """Measure one catalogue. seconds: length of the latency run at each of RATES.

    Raises NextclickError if the answers of the two differ, or a click is not answered.
    """
    peer = versions(python)
    registry = str(servers.folder / f"peers-{items}-registry")
    Registry(registry).publish(random_checkpoint(items))
    environ = {
        **servers.environ,
        f"{PREFIX}DEVICE": device,
        f"{PREFIX}REGISTRY__URL": registry,
    }
    servers = replace(servers, environ=environ)
    counts = {"model": clicks, "floor": clicks * FLOOR_CLICKS}
    topics = {kind: servers.kafka(f"peers-{items}-{kind}") for kind in counts}
    for kind, count in counts.items():
        fill(topics[kind], items, USERS, count)
    rates: dict[tuple[str, str], list[float]] = {}
    for number in range(rounds):
        for kind, count in counts.items():
            passes = {
                name: answer_all(
                    f"{name}-{items}-{kind}-{number}",
                    contestant,
                    servers.folder,
                    environ,
                    topics[kind],
                    count,
                )
                for name, contestant in _contestants(python, floor=kind == "floor").items()
            }
            compare(passes["nextclick"].answers, passes["quix"].answers)
            for name, done in passes.items():
                rates.setdefault((name, kind), []).append(done.clicks_per_second)
    return Row(
        items=items,
        clicks=clicks,
        rounds=rounds,
        peer=peer,
        nextclick=statistics.median(rates["nextclick", "model"]),
        quix=statistics.median(rates["quix", "model"]),
        nextclick_floor=statistics.median(rates["nextclick", "floor"]),
        quix_floor=statistics.median(rates["quix", "floor"]),
        ratio=_paired(rates["nextclick", "model"], rates["quix", "model"]),
        floor_ratio=_paired(rates["nextclick", "floor"], rates["quix", "floor"]),
        latency=[_measure_latency(servers, items, python, rate, seconds) for rate in RATES],
    )


def _contestants(python: Path, *, floor: bool) -> dict[str, Contestant]:
    arguments = ("--floor",) if floor else ()
    return {
        "nextclick": Contestant("nextclick.bench.peers.nextclick_worker", arguments),
        "quix": Contestant("nextclick.bench.peers.quix_worker", arguments, python),
    }


def _measure_latency(
    servers: Servers, items: int, python: Path, rate: float, seconds: float
) -> Latency:
    contestants = {"echo": ECHO, **_contestants(python, floor=False)}
    found = {
        name: round_trip(
            f"{name}-{items}-{rate:g}", contestant, servers, rate, seconds, items=items
        ).latency
        for name, contestant in contestants.items()
    }
    return Latency(rate, **found)


def _paired(numerators: list[float], denominators: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))
