"""Clicks of nobody in particular at an honest rate: `python -m bench.traffic …`.

A process of its own, because a load generator that shares an interpreter with what measures it
would be late whenever that is busy.
"""

from __future__ import annotations

import argparse
import signal
import threading
from collections.abc import Iterator

import numpy as np

from services.simulator.publish import publish_live
from services.simulator.shop import Clicks
from shared.kafka import Publisher
from shared.settings import Settings

_CHUNK = 10_000


def item_id(row: int) -> str:
    """Name the item in a catalogue row."""
    return f"item-{row}"


def traffic(items: int, users: int, seed: int) -> Iterator[Clicks]:
    """Anybody clicks anything, for ever."""
    rng = np.random.default_rng(seed)
    names = np.array([item_id(row) for row in range(1, items + 1)], object)
    while True:
        chosen = names[rng.integers(0, items, _CHUNK)]
        yield Clicks(np.arange(_CHUNK), rng.integers(0, users, _CHUNK), chosen)


def main() -> None:
    """Publish to where the settings say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rate", type=float, required=True, help="clicks per second")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--items", type=int, required=True)
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    kafka = Settings.from_environment().kafka
    publish_live(
        traffic(options.items, options.users, options.seed),
        Publisher(kafka),
        kafka.clicks_topic,
        rate=options.rate,
        seconds=options.seconds,
        seed=options.seed,
        stop=stop,
    )


if __name__ == "__main__":
    main()
