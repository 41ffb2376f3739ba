"""Latency from click to recommendation, measured by an external reader at given rates.

    nextclick bench latency --rate 200,1000 --catalogue 10k

Broker, Redis, one worker, the load generator and the reader share this machine; bench/round_trip.py
describes a measurement. For each rate the echo (bench/echo.py) is measured first: the cost of Kafka
and its client, a floor that the worker's figures are divided by. Then the worker runs for each
guarantee, alone, and with a retrain beside it and a new model version halfway; with lists under
profiles, on topics of their own, beside the plain ones that are timed; with a delta of the served
version each second; and with a second model for half of the users.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Literal, get_args

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from nextclick.bench.contestants import ECHO, WORKER
from nextclick.bench.models import random_checkpoint, random_delta
from nextclick.bench.profiles import PROFILES, item
from nextclick.bench.round_trip import Event, Percentiles, Servers, round_trip
from nextclick.services.demo.local_servers import Processes
from nextclick.services.items.publish import publish
from nextclick.shared.errors import NextclickError
from nextclick.shared.experiments import CURRENT
from nextclick.shared.kafka import ensure_topics
from nextclick.shared.model.checkpoint import WEIGHTS
from nextclick.shared.registry import Registry
from nextclick.shared.runtime.settings import PREFIX
from nextclick.shared.version_names import base_of

LEAST_CLICKS = 100
"""Fewest clicks of a run; at low rates, runs are longer than requested."""
_TRANSACTIONS_WARM_UP = (300, 60.0)
"""Clicks per second, and seconds."""
DELTA_SECONDS = 1.0
"""Between two deltas."""
_SWAP_AT = 0.5
"""Fraction of the run at which the new version is published; the retrain starts with the run."""
_SHARE = 0.5
"""Of the users that get the second model in an experiment."""

Guarantee = Literal["at_least_once", "exactly_once"]
GUARANTEES: tuple[Guarantee, ...] = get_args(Guarantee)


@dataclass(frozen=True)
class Floor:
    """Figures of the echo at one rate."""

    rate: float
    latency: Percentiles
    late_p99_ms: float
    """p99 delay of the load generator; included in the latencies."""


@dataclass(frozen=True)
class Row:
    """Figures of one run of the worker."""

    rate: float
    items: int
    guarantee: Guarantee
    swap: bool
    """Whether the run included a retrain and a swap."""
    profiles: int
    """Number of profiles, each with a list of its own for every click."""
    models: int
    """Versions that serve at once: 2 in a live experiment, each half of the users."""
    deltas: int
    """Deltas seen in the answers; -1: none was published."""
    swaps: int
    """Model changes seen in the answers."""
    latency: Percentiles
    p50_ratio: float
    """The worker's p50 divided by the echo's at the same rate, in the same run."""
    p99_ratio: float
    duplicates: int
    idle_cpu: float
    """Share of a core that the worker uses without clicks; NaN except on Linux."""
    late_p99_ms: float


def seconds_of(rate: float, seconds: float) -> float:
    """Length of a run at a rate: `seconds`, or longer for at least LEAST_CLICKS clicks."""
    return max(seconds, LEAST_CLICKS / rate)


def warm_transactions(servers: Servers) -> None:
    """Warm up transactions: a worker with exactly_once answers some thousand clicks.

    The echo makes no transactions, and a broker's first thousands take two to three times as long
    as later ones.
    """
    name = "warm-up-exactly-once"
    settings = _settings(servers, name, "exactly_once")
    Registry(settings[f"{PREFIX}REGISTRY__URL"]).publish(random_checkpoint(10_000, seed=0))
    round_trip(name, replace(WORKER, settings=settings), servers, *_TRANSACTIONS_WARM_UP)


def measure_floor(servers: Servers, rate: float, seconds: float) -> Floor:
    """Measure the echo on warm servers."""
    run = round_trip(f"echo-{rate:g}", ECHO, servers, rate, seconds_of(rate, seconds))
    return Floor(rate, run.latency, run.late_p99_ms)


def measure(
    servers: Servers,
    floor: Floor,
    seconds: float,
    *,
    items: int,
    guarantee: Guarantee,
    swap: bool,
    profiles: int = 0,
    experiment: bool = False,
    deltas: bool = False,
) -> Row:
    """Measure the worker at the rate of `floor`, on the same servers.

    profiles: how many of `PROFILES` have a topic. experiment: whether half of the users get a
    second model of the same size. deltas: whether one is published each second, as by a learner on
    another machine. Only one of `swap`, `experiment` and `deltas`: workers do not change models
    during an experiment, and deltas are of the first version. Raises NextclickError if a click is
    not answered, or by one of two models only.
    """
    chosen = {"swap": swap, "experiment": experiment, "deltas": deltas}
    kind = f"{next((name for name, is_so in chosen.items() if is_so), 'alone')}-{profiles}"
    name = f"{guarantee.replace('_', '-')}-{floor.rate:g}-{items}-{kind}"
    settings = _settings(servers, name, guarantee)
    if profiles:
        settings |= _profile_settings(servers, name, items, profiles)
    registry = Registry(settings[f"{PREFIX}REGISTRY__URL"])
    registry.publish(random_checkpoint(items, seed=0))
    if experiment:
        b = registry.publish(random_checkpoint(items, seed=1), promote=False)
        registry.start_experiment(name, CURRENT, b, _SHARE)
    run_seconds = seconds_of(floor.rate, seconds)
    events = _retrain_and_swap(registry, settings, items, run_seconds) if swap else []
    if deltas:
        events += _publish_deltas(registry, run_seconds)
    run = round_trip(
        name,
        replace(WORKER, settings=settings),
        servers,
        floor.rate,
        run_seconds,
        items=items,
        events=events,
    )
    versions = {base_of(name) for name in run.versions}
    models = 2 if experiment else 1
    if len(versions) < models:
        raise NextclickError(f"{name}: one of two models answered no click")
    return Row(
        rate=floor.rate,
        items=items,
        guarantee=guarantee,
        swap=swap,
        profiles=profiles,
        models=models,
        deltas=sum(name not in versions for name in run.versions) if deltas else -1,
        swaps=len(versions) - models,
        latency=run.latency,
        p50_ratio=run.latency.p50_ms / floor.latency.p50_ms,
        p99_ratio=run.latency.p99_ms / floor.latency.p99_ms,
        duplicates=run.duplicates,
        idle_cpu=run.idle_cpu,
        late_p99_ms=run.late_p99_ms,
    )


def _settings(servers: Servers, name: str, guarantee: Guarantee) -> dict[str, str]:
    return {
        f"{PREFIX}WORKER__GUARANTEE": guarantee,
        f"{PREFIX}REGISTRY__URL": str(servers.folder / f"{name}-registry"),
        f"{PREFIX}TRAINER__EVENT_LOG": str(servers.folder / f"{name}-event-log"),
    }


def _profile_settings(servers: Servers, name: str, items: int, count: int) -> dict[str, str]:
    """Publish what the items are, and make the settings for lists under the first profiles."""
    chosen = {f"profile-{number}": PROFILES[number] for number in range(count)}
    topics = {f"{name}-{profile}": profile for profile in chosen}
    kafka = servers.kafka(name).model_copy(update={"items_topic": f"{name}-items"})
    ensure_topics(kafka, list(topics))
    publish(kafka, {said.item_id: said for said in map(item, range(1, items + 1))})
    described = {name: profile.model_dump(exclude_unset=True) for name, profile in chosen.items()}
    return {
        f"{PREFIX}KAFKA__ITEMS_TOPIC": kafka.items_topic,
        f"{PREFIX}KAFKA__PROFILE_TOPICS": json.dumps(topics),
        f"{PREFIX}PROFILES": json.dumps(described),
    }


def _retrain_and_swap(
    registry: Registry, settings: dict[str, str], items: int, seconds: float
) -> list[Event]:
    next_model = random_checkpoint(items, seed=1)

    def retrain(processes: Processes) -> None:
        processes.start("trainer", ["trainer", "--once"], settings, background=True)

    def swap(_: Processes) -> None:
        registry.publish(next_model)

    return [(0.0, retrain), (_SWAP_AT * seconds, swap)]


def _publish_deltas(registry: Registry, seconds: float) -> list[Event]:
    """One each second. They are made before the run: learning costs this machine nothing."""
    (version,) = registry.versions()
    base, sha256 = registry.load(version), registry.manifest(version).files[WEIGHTS]

    def event(number: int) -> Event:
        delta = random_delta(base, version, sha256, number)
        return (number - 1) * DELTA_SECONDS, lambda _: registry.publish_delta(delta)

    return [event(number) for number in range(1, 1 + max(1, int(seconds / DELTA_SECONDS)))]


def _changes(row: Row) -> str:
    """What happened to the model in a run."""
    if row.swap:
        return f"{row.swaps} swaps"
    if row.deltas >= 0:
        return f"{row.deltas} deltas"
    return "alone" if row.models == 1 else f"{row.models} models"


class LatencyTable:
    """The table that `nextclick bench latency` prints."""

    def __init__(self) -> None:
        self._table = Table(
            *("clicks/s", "guarantee", "items", "model", "profiles", "clicks"),
            *("p50, ms", "× echo", "p90", "p99", "× echo", "max", "idle"),
            box=SIMPLE,
            padding=(0, 0, 0, 1),
        )
        for column in self._table.columns:
            column.no_wrap = True
        for column in self._table.columns[2:]:
            column.justify = "right"

    def add_floor(self, floor: Floor) -> None:
        """Add the row of the echo, which starts the section of its rate."""
        latency = floor.latency
        self._table.add_section()
        self._table.add_row(
            *(f"{floor.rate:,.0f}", "echo", "", "", "", f"{latency.clicks:,}"),
            *(f"{latency.p50_ms:,.1f}", "", f"{latency.p90_ms:,.1f}", f"{latency.p99_ms:,.1f}", ""),
            *(f"{latency.max_ms:,.0f}", ""),
        )

    def add(self, row: Row) -> None:
        """Add a row of the worker."""
        latency = row.latency
        self._table.add_row(
            *(f"{row.rate:,.0f}", row.guarantee.replace("_", " "), f"{row.items:,}"),
            _changes(row),
            *(f"{row.profiles}", f"{latency.clicks:,}"),
            *(f"{latency.p50_ms:,.1f}", f"{row.p50_ratio:.1f}", f"{latency.p90_ms:,.1f}"),
            *(f"{latency.p99_ms:,.1f}", f"{row.p99_ratio:.1f}", f"{latency.max_ms:,.0f}"),
            f"{row.idle_cpu:.1%}",
        )

    def show(self, console: Console, servers: Servers) -> None:
        """Print the table with its legend."""
        console.print(self._table)
        console.print(
            "Latency: from the time a click was due until a reader had its answer (exactly once: "
            "until it was committed). echo: consume and produce, no model, no Redis. profiles: "
            "lists under so many, each on a topic "
            "of its own, beside the timed ones. model: alone; with a retrain, and the new versions "
            "that were seen; with a delta each second, and those that were seen; or 2 models in an "
            "experiment, each for half of the users. clicks: number of timed clicks; with 100 or "
            "200, "
            "p99 is nearly the maximum. idle: share of a core used without clicks."
        )
        console.print(". ".join(f"{name}: {text}" for name, text in servers.facts.items()) + ".")
