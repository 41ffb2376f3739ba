"""Load generator: `python -m nextclick.bench.load …` publishes clicks on schedule.

Open loop: a click is sent when it is due, independent of the answers, and its latency counts from
when it was *due*. A separate process, because other threads in its interpreter would delay it. At
its end it prints its own delays.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from itertools import islice

import numpy as np

from nextclick.bench.traffic import CHUNK, traffic
from nextclick.shared.kafka import Publisher
from nextclick.shared.messages import of_user
from nextclick.shared.runtime.garbage_collector import freeze_garbage_collector
from nextclick.shared.runtime.settings import Settings
from nextclick.shared.schemas import Click

USERS = 500
"""Few users, so that most clicks have a full history, and answers their full size."""


def event_id(number: int) -> str:
    """The event id of click `number`, which is due at start + number / rate; as long as a UUID."""
    return f"load-{number:031d}"


def number_of(event_id: str) -> int | None:
    """The number of a click from its event id; None for an id that is not from `event_id`."""
    return int(event_id[5:]) if event_id.startswith("load-") else None


def clicks(items: int, count: int, seed: int) -> Callable[[int, str, int], Click]:
    """Draw `count` random clicks; returns a function (number, event_id, epoch ms) → Click."""
    drawn = list(islice(traffic(items, USERS, seed), 1 + count // CHUNK))
    users = np.concatenate([chunk.users for chunk in drawn]).tolist()
    chosen = np.concatenate([chunk.items for chunk in drawn]).tolist()

    def make(number: int, event_id: str, timestamp: int) -> Click:
        return Click(
            event_id=event_id,
            user_id=str(users[number]),
            item_id=chosen[number],
            timestamp=timestamp,
        )

    return make


def send_on_schedule(
    send: Callable[[Sequence[tuple[int, float]]], object],
    *,
    rate: float,
    count: int,
    start: float,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> list[float]:
    """Send `count` clicks, the i-th at start + i / rate; returns the delay of each in seconds.

    `send` gets a list of (number, due time in epoch seconds), with several clicks if it is late.
    """
    late: list[float] = []
    while len(late) < count:
        sleep(max(0.0, start + len(late) / rate - clock()))
        due = min(count, 1 + int((clock() - start) * rate + 1e-6))
        batch = [(number, start + number / rate) for number in range(len(late), due)]
        send(batch)
        now = clock()
        late += [now - when for _, when in batch]
    return late


def main() -> None:
    """Publish to the clicks topic of the settings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, required=True, help="clicks per second")
    parser.add_argument("--count", type=int, required=True, help="clicks in all")
    parser.add_argument("--items", type=int, required=True)
    options = parser.parse_args()
    kafka = Settings.from_environment().kafka
    publisher = Publisher(kafka)
    publisher.connect()
    make = clicks(options.items, options.count, seed=1)

    def send(batch: Sequence[tuple[int, float]]) -> None:
        publisher.send(
            of_user(kafka.clicks_topic, make(number, event_id(number), int(1000 * due)))
            for number, due in batch
        )

    freeze_garbage_collector()
    start = time.time() + 0.1
    print(f"first click at {start!r}", flush=True)
    late = send_on_schedule(send, rate=options.rate, count=options.count, start=start)
    publisher.wait_acknowledged()
    p50, p99 = 1000 * np.percentile(late, [50, 99])
    print(f"late p50 {p50:.3f} ms, p99 {p99:.3f} ms", flush=True)


if __name__ == "__main__":
    main()
