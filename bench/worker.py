"""Throughput of one worker, and the cost of each of its steps.

    nextclick bench worker --catalogue 50,10k

A clicks topic is filled first; the worker's loop, in this process, then answers it from its
beginning at full speed. It takes turns with the *floor*: the same loop on the same clicks, with a
scorer that only returns the popular items. The *scorer* is also timed alone, on batches of the same
size. The best possible time per click is taken as floor + scorer.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from pydantic import SecretStr

from nextclick.bench.models import random_checkpoint
from nextclick.bench.round_trip import Servers
from nextclick.bench.timing import in_turns
from nextclick.bench.traffic import fill
from nextclick.services.worker.main import build
from nextclick.shared.items import ItemStates
from nextclick.shared.kafka import ensure_topics
from nextclick.shared.model import Constraints, Ranking, Scorer
from nextclick.shared.registry import ModelSlot, Registry
from nextclick.shared.runtime import metrics
from nextclick.shared.runtime.garbage_collector import freeze_garbage_collector
from nextclick.shared.runtime.settings import (
    PREFIX,
    KafkaSettings,
    RedisSettings,
    Settings,
    WorkerSettings,
)
from nextclick.shared.windows import HISTORY_LENGTH

USERS = 500
"""Few users, so that most clicks have a full history."""
STAGES = ("poll", "decode", "append", "score", "encode", "produce")
"""The steps of the serving thread; it does not wait for acknowledgements and commits."""
_QUEUE = "queue"
"""With exactly_once: a scored batch waits for the end of the previous transaction."""


class Floor(Scorer):
    """A scorer that costs nothing: it returns the popular items for every history."""

    def recommend(
        self,
        histories: list[list[str]],
        constraints: Sequence[Constraints] | None = None,
        withheld: frozenset[str] = frozenset(),
        seeds: Sequence[int] | None = None,
    ) -> list[Ranking]:
        """Rank as for empty histories."""
        return super().recommend([[] for _ in histories])


@dataclass(frozen=True)
class Pass:
    """The figures of answering the topic once."""

    clicks_per_second: float
    stage_us: dict[str, float]
    """Microseconds per click."""


@dataclass(frozen=True)
class Row:
    """Figures for one catalogue: medians over the rounds."""

    items: int
    batch: int
    clicks: int
    published_per_second: float
    """Clicks per second that the simulator publishes."""
    clicks_per_second: float
    exactly_once_per_second: float
    """Clicks per second with guarantee=exactly_once."""
    floor_us: float
    """Microseconds per click of the loop with the scorer that costs nothing."""
    scorer_us: float
    share_of_possible: float
    """The worker's rate as a share of 1 / (floor + scorer): median over the rounds."""
    stage_us: dict[str, float]
    """Microseconds per click of each step, with at_least_once."""
    queue_us: float
    """With exactly_once: microseconds per click of waiting for the previous transaction."""


def measure(servers: Servers, items: int, clicks: int, rounds: int, device: torch.device) -> Row:
    """Measure one catalogue with one worker, on `device`, with default settings otherwise."""
    name = f"worker-{items}"
    kafka = servers.kafka(name)
    ensure_topics(kafka, kafka.topics)
    published_per_second = fill(kafka, items, USERS, clicks)
    checkpoint = random_checkpoint(items)
    registry = Registry(str(servers.folder / f"{name}-registry"))
    registry.publish(checkpoint)
    top_k = Settings().worker.top_k
    batch = Settings().worker.max_batch
    scorer = Scorer(checkpoint, device, top_k)
    ids = np.array(checkpoint.vocabulary.item_ids, object)
    histories = np.random.default_rng(0).choice(ids, (batch, HISTORY_LENGTH)).tolist()

    workers, floors, scorers, shares, exact = [], [], [], [], []
    for number in range(rounds):
        slots = {
            "worker": ModelSlot(registry, lambda c: Scorer(c, device, top_k), 1.0),
            "floor": ModelSlot(registry, lambda c: Floor(c, device, top_k), 1.0),
            "exactly_once": ModelSlot(registry, lambda c: Scorer(c, device, top_k), 1.0),
        }
        passes = {
            kind: _answer_all(
                f"{name}-{kind}-{number}",
                slot,
                servers,
                kafka,
                clicks,
                "exactly_once" if kind == "exactly_once" else "at_least_once",
            )
            for kind, slot in slots.items()
        }
        alone = in_turns({"scorer": lambda: scorer.recommend(histories)}, device, rounds=1)
        workers.append(passes["worker"])
        exact.append(passes["exactly_once"])
        floors.append(1e6 / passes["floor"].clicks_per_second)
        scorers.append(1e6 * alone["scorer"].median / batch)
        shares.append(workers[-1].clicks_per_second * (floors[-1] + scorers[-1]) / 1e6)
    return Row(
        items=items,
        batch=batch,
        clicks=clicks,
        published_per_second=published_per_second,
        clicks_per_second=statistics.median(p.clicks_per_second for p in workers),
        exactly_once_per_second=statistics.median(p.clicks_per_second for p in exact),
        floor_us=statistics.median(floors),
        scorer_us=statistics.median(scorers),
        share_of_possible=statistics.median(shares),
        stage_us={s: statistics.median(p.stage_us[s] for p in workers) for s in STAGES},
        queue_us=statistics.median(p.stage_us[_QUEUE] for p in exact),
    )


def _answer_all(
    name: str,
    slot: ModelSlot,
    servers: Servers,
    kafka: KafkaSettings,
    clicks: int,
    guarantee: Literal["at_least_once", "exactly_once"],
) -> Pass:
    """Answer the topic from its beginning, with its own consumer group and session keys."""
    redis = RedisSettings(
        url=SecretStr(servers.environ[f"{PREFIX}REDIS__URL"]), key_prefix=f"{name}:"
    )
    worker_settings = WorkerSettings(group_id=name, guarantee=guarantee)
    settings = Settings().model_copy(
        update={"kafka": kafka, "redis": redis, "worker": worker_settings}
    )
    slot.check()
    worker = build(settings, slot, ItemStates, threading.Event())
    try:
        answered = _count()
        while _count() == answered:  # the time to join the group is not measured
            worker.step()
        worker.finish()
        freeze_garbage_collector()
        first, before, began = _count(), _stages(), time.perf_counter()
        while _count() - answered < clicks:
            worker.step()
        worker.finish()
        seconds, measured = time.perf_counter() - began, _count() - first
    finally:
        worker.close()
    after = _stages()
    spent = {stage: 1e6 * (after[stage] - before[stage]) / measured for stage in after}
    return Pass(measured / seconds, spent)


def _count() -> float:
    """Clicks that this process has read so far."""
    return sum(s.value for m in metrics.CLICKS.collect() for s in m.samples[:1])


def _stages() -> dict[str, float]:
    """Seconds that each step has taken in this process so far."""
    seconds = dict.fromkeys((*STAGES, _QUEUE), 0.0)
    for metric in metrics.STAGE_SECONDS.collect():
        for sample in metric.samples:
            if sample.name.endswith("_sum") and sample.labels["stage"] in seconds:
                seconds[sample.labels["stage"]] = sample.value
    return seconds
