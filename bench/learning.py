"""Learning between retrainings: how soon, how well, how safe against bots, and what it costs.

`measure` works on the clicks of simulated shops and makes deltas as the trainer's learner does,
without processes. In the shop of the base half of the missions are begun; after the *shock* only
the other half is, with products that the base has never seen. `measure_delay` starts real
processes.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch

from nextclick.bench.round_trip import Servers
from nextclick.services.demo.local_servers import Processes
from nextclick.services.evaluate.worlds import oracle
from nextclick.services.simulator.assortment import MISSIONS
from nextclick.services.simulator.missions import MissionWorld
from nextclick.services.simulator.publish import click_frame
from nextclick.shared.errors import NextclickError
from nextclick.shared.kafka import Publisher, TopicReader, ensure_topics
from nextclick.shared.messages import of_user
from nextclick.shared.model import Checkpoint, Scorer
from nextclick.shared.model.delta import applied
from nextclick.shared.registry import Registry
from nextclick.shared.runtime.settings import PREFIX
from nextclick.shared.schemas import Click, Recommendation
from nextclick.trainer.compare.ceiling import Ceiling
from nextclick.trainer.data import ClickLog, Split, bound_contributions, click_log, samples
from nextclick.trainer.evaluate import Evaluation, evaluate, evaluate_model
from nextclick.trainer.fit.presets import preset
from nextclick.trainer.learn.learning import learn
from nextclick.trainer.retrain import FitLimits, fit_candidate

CPU = torch.device("cpu")
GAP_MS = 30 * 60 * 1000
MAX_PER_MINUTE = 60
BEGAN_MS = 1_700_000_000_000
LEARNED_FROM = (100, 200, 500, 1_000, 2_000, 4_000)
UNSEEN = 5_000
HONEST_RATE = 100
"""Honest clicks a second while bots click."""
BOTS = 40
CLICKS_OF_NEW_ITEM = 20
LONGEST_SECONDS = 60.0


@dataclass(frozen=True)
class Recovery:
    """Of the ceiling on unseen clicks, after a delta of so many clicks since the shop changed."""

    shop: str
    clicks: int
    hr_at_10: float
    ndcg_at_10: float
    base_hr_at_10: float
    learn_seconds: float
    ece: float
    """Of the first items' probabilities: expected calibration error, not a share of the ceiling."""
    ece_noise: float
    base_ece: float


@dataclass(frozen=True)
class Attack:
    """HR@1 on honest clicks after a minute of 6,000 honest clicks, without and with an attack."""

    name: str
    honest: float
    attacked: float


@dataclass(frozen=True)
class Cost:
    """Microseconds a click of the scorer, batches of 256, and seconds until a delta serves."""

    base_us: float
    delta_us: float
    apply_seconds: float


@dataclass(frozen=True)
class Measured:
    """All that needs no processes."""

    recovery: list[Recovery]
    attacks: list[Attack]
    cost: Cost


def base_of_shop(clicks: int, epochs: int, seed: int) -> Checkpoint:
    """A model of the shop before the shock."""
    frame = click_frame(_shop(0).clicks(clicks, seed), BEGAN_MS + clicks * 1000, rate=1, seed=seed)
    data, limits = click_log(frame, GAP_MS), FitLimits(seed, epochs)
    return fit_candidate(data, None, None, preset("default"), limits, device=CPU)


def measure(base: Checkpoint, base_clicks: int, seed: int) -> Measured:
    """Change the shop, and attack it."""
    before, after = _shop(0), _shop(1)
    recovery = [
        row
        for name, world in (("shock", after), ("no change", before))
        for row in _recovery(name, world, base, base_clicks, seed + 1)
    ]
    return Measured(recovery, list(_attacks(before, base, seed + 2)), _cost(before, base, seed + 1))


def _shop(half: int) -> MissionWorld:
    """The shop in which half of the missions, the even or the odd ones, are begun."""
    return MissionWorld(mission_popularity=dict.fromkeys(list(MISSIONS)[1 - half :: 2], 0.0))


def _recovery(
    shop: str, world: MissionWorld, base: Checkpoint, base_clicks: int, seed: int
) -> Iterator[Recovery]:
    count = max(LEARNED_FROM) + UNSEEN
    frame = click_frame(
        world.clicks(count, seed), BEGAN_MS + (base_clicks + count) * 1000, rate=1, seed=seed
    )
    unseen = click_log(frame.iloc[-UNSEEN:], GAP_MS, validation=0.0, test=1.0)
    best = _ceiling(world, unseen, base)
    without = _on(base, unseen)
    for clicks in LEARNED_FROM:
        learned, seconds = _learned(frame.iloc[:clicks], base)
        found = _on(learned, unseen)
        yield Recovery(
            shop,
            clicks,
            found.metrics()["hr@10"] / best.metrics()["hr@10"],
            found.metrics()["ndcg@10"] / best.metrics()["ndcg@10"],
            without.metrics()["hr@10"] / best.metrics()["hr@10"],
            seconds,
            found.metrics()["ece"],
            found.calibration_noise(),
            without.metrics()["ece"],
        )


def _learned(frame: pd.DataFrame, base: Checkpoint) -> tuple[Checkpoint, float]:
    """The base with the delta of some clicks, and how long that took."""
    began = time.perf_counter()
    bounded, _ = bound_contributions(frame, MAX_PER_MINUTE)
    delta = learn(click_log(bounded, GAP_MS, 0.0, 0.0), base, "", "", 1)
    assert delta is not None
    return applied(delta, base), time.perf_counter() - began


def _on(checkpoint: Checkpoint, unseen: ClickLog) -> Evaluation:
    return evaluate_model(checkpoint, samples(unseen, Split.TEST, checkpoint.vocabulary), CPU)


def _first_place(checkpoint: Checkpoint, unseen: ClickLog) -> float:
    return float(_on(checkpoint, unseen).hits(1).mean())


def _ceiling(world: MissionWorld, unseen: ClickLog, base: Checkpoint) -> Evaluation:
    best = Ceiling(oracle(world.item_ids, partial(world.next_click_given_history, rollover=0.0)))
    vocabulary = base.vocabulary.extended(world.item_ids)
    best.fit(unseen, vocabulary, seed=0)
    cases = samples(unseen, Split.TEST, vocabulary)
    return evaluate(best.score, np.ones(len(vocabulary), np.int64), cases)


def _attacks(world: MissionWorld, base: Checkpoint, seed: int) -> Iterator[Attack]:
    """The three attacks on a minute of a shop that has not changed."""
    clicks = 60 * HONEST_RATE
    honest = click_frame(world.clicks(clicks, seed), BEGAN_MS, HONEST_RATE, seed)
    later = click_frame(world.clicks(UNSEEN, seed + 1), 2 * BEGAN_MS, 1, seed + 1)
    unseen = click_log(later, GAP_MS, validation=0.0, test=1.0)
    bait, others = base.vocabulary.item_ids[7], base.vocabulary.item_ids
    rng = np.random.default_rng(seed)

    def added(users: list[str], each: int, *, bait_only: bool) -> pd.DataFrame:
        """So many clicks of each user within the minute: the bait, and other items in turn."""
        number = np.arange(each)
        items = np.where((number % 2 == 1) | bait_only, bait, rng.choice(others, each))
        bots = [
            pd.DataFrame(
                {
                    "user_id": user,
                    "item_id": items,
                    "timestamp": BEGAN_MS - 60_000 + number * 60_000 // each,
                }
            )
            for user in users
        ]
        both = pd.concat([honest, *bots])
        return both.sort_values("timestamp", kind="stable", ignore_index=True)

    forty = [f"bot-{i}" for i in range(BOTS)]
    attacks = {
        # Kafka's time replaces the year that they claim (docs/messages.md, Times).
        "20 users claim the year 9999": added(
            [f"late-{i}" for i in range(20)], 1_000, bait_only=True
        ),
        "one user, 20,000 clicks": added(["flood"], 20_000, bait_only=False),
        "40 bots, one click a second": added(forty, 60, bait_only=False),
        "40 bots, five clicks a second": added(forty, 300, bait_only=False),
    }
    without = _first_place(_learned(honest, base)[0], unseen)
    for name, frame in attacks.items():
        yield Attack(name, without, _first_place(_learned(frame, base)[0], unseen))


def _cost(world: MissionWorld, base: Checkpoint, seed: int) -> Cost:
    frame = click_frame(world.clicks(4_000, seed), BEGAN_MS, 1, seed)
    learned, _ = _learned(frame, base)
    began = time.perf_counter()
    scorers = [Scorer(base, CPU, 10), Scorer(learned, CPU, 10)]
    seconds = (time.perf_counter() - began) / 2
    histories = [[item] * 5 for item in base.vocabulary.item_ids * 10][:256]
    taken: list[list[float]] = [[], []]
    for _ in range(31):
        for scorer, times in zip(scorers, taken, strict=True):
            began = time.perf_counter()
            scorer.recommend(histories)
            times.append(time.perf_counter() - began)
    base_us, delta_us = (1e6 * float(np.median(times)) / len(histories) for times in taken)
    return Cost(base_us, delta_us, seconds)


def measure_delay(servers: Servers, base: Checkpoint, probes: int) -> list[float]:
    """Seconds from the 20th click on a new item until it is in the list of another shopper.

    A worker and a trainer with its collector run as processes, with their default intervals.
    """
    kafka = servers.kafka("learning")
    folder = servers.folder / "learning"
    folder.mkdir()
    ensure_topics(kafka, [kafka.clicks_topic, kafka.recommendations_topic])
    settings = {
        f"{PREFIX}KAFKA__CLICKS_TOPIC": kafka.clicks_topic,
        f"{PREFIX}KAFKA__RECOMMENDATIONS_TOPIC": kafka.recommendations_topic,
        f"{PREFIX}REGISTRY__URL": str(folder / "registry"),
        f"{PREFIX}TRAINER__EVENT_LOG": str(folder / "event_log"),
        f"{PREFIX}TRAINER__DELTA_SECONDS": "1",
    }
    Registry(str(folder / "registry")).publish(base)
    running = Processes(folder, {**servers.environ, **settings})
    publisher = Publisher(kafka)
    publisher.connect()
    numbers = itertools.count()
    known = base.vocabulary.item_ids

    def send(user: str, item: str) -> None:
        number = next(numbers)
        click = Click(
            event_id=f"e{number}", user_id=user, item_id=item, timestamp=int(time.time() * 1000)
        )
        publisher.send([of_user(kafka.clicks_topic, click)])

    delays = []
    try:
        running.start("worker", ["worker"])
        running.start("trainer", ["trainer"])
        running.wait_for_partitions()
        with contextlib.closing(TopicReader(kafka, [kafka.recommendations_topic])) as reader:
            for probe in range(probes):
                item, near = f"new-{probe}", known[probe % len(known)]
                for user in range(CLICKS_OF_NEW_ITEM):
                    send(f"early-{probe}-{user}", near)
                    send(f"early-{probe}-{user}", item)
                publisher.wait_acknowledged()
                delays.append(_listed_after(send, reader, item, near, probe))
    finally:
        running.kill_all()
    return delays


def _listed_after(
    send: Callable[[str, str], None], reader: TopicReader, item: str, near: str, probe: int
) -> float:
    """Another shopper clicks `near` every 0.1 s until `item` is in the list: after how long."""
    began = time.monotonic()
    for asked in itertools.count():
        user = f"late-{probe}-{asked}"
        send(user, near)
        sent = time.monotonic()
        while time.monotonic() - sent < 0.1:
            for message in reader.poll(timeout=0.02):
                answer = Recommendation.model_validate_json(message.value or b"")
                if answer.user_id.startswith(f"late-{probe}-") and item in [
                    listed.item_id for listed in answer.items
                ]:
                    return time.monotonic() - began
        if time.monotonic() - began > LONGEST_SECONDS:
            break
    raise NextclickError(f"{item} was in no list within {LONGEST_SECONDS:.0f} s")
