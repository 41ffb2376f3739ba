"""Simulated clicks as a log, or published to Kafka at a fixed rate (open loop)."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from nextclick.services.simulator.shop import Clicks
from nextclick.shared.kafka import Publisher
from nextclick.shared.messages import OutMessage, of_user
from nextclick.shared.runtime.retry import RetryUntilAvailable
from nextclick.shared.schemas import Click, uuid7

log = logging.getLogger(__name__)

SHORTEST_WAIT = 0.001
"""Seconds; clicks that are due within it are sent together."""

_REPORT_SECONDS = 10.0


def click_frame(clicks: Clicks, last_timestamp_ms: int, rate: float, seed: int) -> pd.DataFrame:
    """A frame of clicks, with timestamps at `rate` per second that end at `last_timestamp_ms`.

    Columns event_id, user_id, item_id, timestamp (epoch ms), as in the event log.
    """
    n = len(clicks.users)
    ages_ms = (np.arange(n)[::-1] * 1000.0 / rate).astype(np.int64)
    timestamps = last_timestamp_ms - ages_ms
    randomness = np.random.default_rng(seed).bytes(10 * n)
    return pd.DataFrame(
        {
            "event_id": [
                uuid7(int(timestamp), randomness[10 * i : 10 * i + 10])
                for i, timestamp in enumerate(timestamps)
            ],
            "user_id": clicks.users.astype(str),
            "item_id": clicks.items.astype(str),
            "timestamp": timestamps,
        }
    )


def publish_live(
    traffic: Iterator[Clicks],
    publisher: Publisher,
    topic: str,
    *,
    rate: float,
    seconds: float | None,
    seed: int,
    stop: threading.Event,
    clock: Callable[[], float] = time.time,
) -> int:
    """Publish `traffic` at `rate` per second, for `seconds` or until `stop`; returns the count.

    seed: of the event ids. clock: seconds since the epoch.

    Open loop: the i-th click is due at start + i/rate, independent of delays before, and its
    timestamp is the time at which it was *due*. If Kafka or this process falls behind, the delay is
    part of every latency measured from the timestamp (no coordinated omission).
    """
    until_available = RetryUntilAvailable(stop, log)
    shoppers = _one_by_one(traffic)
    randomness = _pieces(np.random.default_rng(seed))
    until_available(publisher.connect)
    start = clock()
    reported = start
    end = float("inf") if seconds is None else start + seconds
    sent = 0
    while not stop.is_set():
        now = clock()
        # At the end `seconds`, not end - start, which lacks digits: the clock's values are large.
        elapsed = now - start if seconds is None else min(now - start, seconds)
        due = int(elapsed * rate + 1e-6)  # 0.29 s at 100/s are 29 clicks, not 28.99…
        if due > sent:
            messages = [
                _message(topic, user, item, start + i / rate, next(randomness))
                for i, (user, item) in zip(range(sent + 1, due + 1), shoppers, strict=False)
            ]
            publisher.send(messages)
            sent = due
        if now - reported >= _REPORT_SECONDS:
            reported = now
            late_ms = 1000 * (clock() - start - sent / rate)
            log.info("%d clicks sent, %.0f/s, %.0f ms late", sent, sent / elapsed, late_ms)
        if now >= end:
            break
        stop.wait(max(SHORTEST_WAIT, min(end, start + (sent + 1) / rate) - clock()))
    until_available(publisher.wait_acknowledged)
    return sent


def _one_by_one(chunks: Iterator[Clicks]) -> Iterator[tuple[int, int | str]]:
    pairs = (zip(chunk.users.tolist(), chunk.items.tolist(), strict=True) for chunk in chunks)
    return itertools.chain.from_iterable(pairs)


def _pieces(rng: np.random.Generator) -> Iterator[bytes]:
    """Yield ten random bytes at a time; drawn in blocks, for speed."""
    while True:
        block = rng.bytes(10_000)
        for start in range(0, len(block), 10):
            yield block[start : start + 10]


def _message(topic: str, user: int, item: int | str, due: float, randomness: bytes) -> OutMessage:
    timestamp = int(due * 1000)
    click = Click(
        event_id=uuid7(timestamp, randomness),
        user_id=str(user),
        item_id=str(item),
        timestamp=timestamp,
    )
    return of_user(topic, click)
