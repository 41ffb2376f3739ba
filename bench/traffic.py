"""Random clicks."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np

from nextclick.services.simulator.publish import publish_live
from nextclick.services.simulator.shop import Clicks
from nextclick.shared.kafka import Publisher, ensure_topics
from nextclick.shared.runtime.settings import KafkaSettings

CHUNK = 10_000
_DUE_SECONDS = 0.01
"""All clicks of a filled topic are due within this time, so they are published at full speed."""


def item_id(row: int) -> str:
    """The item id of a catalogue row."""
    return f"item-{row}"


def traffic(items: int, users: int, seed: int) -> Iterator[Clicks]:
    """Uniformly random clicks without end, in chunks of CHUNK clicks."""
    rng = np.random.default_rng(seed)
    names = np.array([item_id(row) for row in range(1, items + 1)], object)
    while True:
        chosen = names[rng.integers(0, items, CHUNK)]
        yield Clicks(np.arange(CHUNK), rng.integers(0, users, CHUNK), chosen)


def fill(kafka: KafkaSettings, items: int, users: int, clicks: int) -> float:
    """Publish so many random clicks at full speed; returns clicks per second."""
    ensure_topics(kafka, [kafka.clicks_topic])
    publisher = Publisher(kafka)
    publisher.connect()
    began = time.perf_counter()
    publish_live(
        traffic(items, users, seed=0),
        publisher,
        kafka.clicks_topic,
        rate=clicks / _DUE_SECONDS,
        seconds=_DUE_SECONDS,
        seed=0,
        stop=threading.Event(),
    )
    return clicks / (time.perf_counter() - began)
