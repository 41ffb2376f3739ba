"""Notes when each answer arrives: `python -m nextclick.bench.arrivals …`.

A process of its own that keeps the messages as they are and does nothing else: what else a reader
did with them, or another thread of its interpreter, would count as latency.
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

QUIET_SECONDS = 1.0
"""After the last answer that is expected: a duplicate would follow by then."""
SILENCE_SECONDS = 60.0
"""Without an answer for so long the rest is given up."""


class Reader(Protocol):
    """What is needed of a TopicReader."""

    def poll(self, max_messages: int = 1000, timeout: float = 0.5) -> list[Message]:
        """Wait for messages."""
        ...


def note(reader: Reader, warm_up: int, clicks: int) -> list[tuple[float, bytes]]:
    """Read `warm_up` answers, say "warm" on standard output, and read `clicks` more.

    Returns all of them with the epoch seconds of their arrival; fewer after SILENCE_SECONDS.
    """
    arrived: list[tuple[float, bytes]] = []
    heard, warm = time.time(), False
    while True:
        messages = reader.poll(timeout=0.1)
        now = time.time()
        if messages:
            heard = now
            arrived += [(now, message.value or b"") for message in messages]
        if not warm and len(arrived) >= warm_up:
            warm = True
            print("warm", flush=True)
        complete = len(arrived) >= warm_up + clicks
        if now - heard > (QUIET_SECONDS if complete else SILENCE_SECONDS):
            return arrived


def save(arrived: list[tuple[float, bytes]], file: Path) -> None:
    """Write a line for each answer: when it arrived, a space, and its JSON."""
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
    parser.add_argument("--warm-up", type=int, required=True, help="answers before it says so")
    parser.add_argument("--clicks", type=int, required=True, help="answers after that")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    kafka = Settings.from_environment().kafka
    reader = TopicReader(kafka, [kafka.recommendations_topic])
    freeze_garbage_collector()
    arrived = note(reader, options.warm_up, options.clicks)
    save(arrived, options.output)
    reader.close()


if __name__ == "__main__":
    main()
