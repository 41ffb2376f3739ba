"""Records when each answer arrives: `python -m nextclick.bench.arrivals …`.

A separate process that only stores the raw messages: decoding them, or another thread in the same
interpreter, would add to the measured latency.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from nextclick.shared.kafka import TopicReader
from nextclick.shared.messages import Message
from nextclick.shared.runtime.garbage_collector import freeze_garbage_collector
from nextclick.shared.runtime.settings import Settings

DUPLICATES_SECONDS = 1.0
"""How long to wait for duplicates after the last expected answer."""
SILENCE_SECONDS = 60.0
"""Reading ends after this long without an answer."""


class Reader(Protocol):
    """The part of TopicReader that is used here."""

    def poll(self, max_messages: int = 1000, timeout: float = 0.5) -> list[Message]:
        """Wait up to `timeout` seconds for messages."""
        ...


def record(reader: Reader, warm_up: int, clicks: int) -> list[tuple[float, bytes]]:
    """Read `warm_up` answers, print "warm" on standard output, and read `clicks` more.

    Returns (arrival in epoch seconds, value) of each; fewer after SILENCE_SECONDS of silence.
    """
    arrived: list[tuple[float, bytes]] = []
    last_arrival, warm = time.time(), False
    while True:
        messages = reader.poll(timeout=0.1)
        now = time.time()
        if messages:
            last_arrival = now
            arrived += [(now, message.value or b"") for message in messages]
        if not warm and len(arrived) >= warm_up:
            warm = True
            print("warm", flush=True)
        complete = len(arrived) >= warm_up + clicks
        if now - last_arrival > (DUPLICATES_SECONDS if complete else SILENCE_SECONDS):
            return arrived


def save(arrived: list[tuple[float, bytes]], file: Path) -> None:
    """Write one line per answer: arrival time, a space, and the JSON value."""
    with open(file, "wb") as output:
        output.writelines(b"%r %b\n" % (when, value) for when, value in arrived)


def load(file: Path) -> Iterator[tuple[float, bytes]]:
    """Read what `save` wrote."""
    with open(file, "rb") as lines:
        for line in lines:
            when, _, value = line.partition(b" ")
            yield float(when), value.removesuffix(b"\n")


def main() -> None:
    """Read the recommendations topic of the settings from its beginning."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--warm-up", type=int, required=True, help="answers of the warm-up")
    parser.add_argument("--clicks", type=int, required=True, help="answers after the warm-up")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    kafka = Settings.from_environment().kafka
    reader = TopicReader(kafka, [kafka.recommendations_topic])
    freeze_garbage_collector()
    arrived = record(reader, options.warm_up, options.clicks)
    save(arrived, options.output)
    reader.close()


if __name__ == "__main__":
    main()
