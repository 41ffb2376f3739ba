from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterable

import numpy as np
import pytest

from services.simulator.publish import click_frame, publish_live, uuid7
from services.simulator.world import World
from shared.messages import OutMessage


class Clock:
    """Time that passes only while somebody waits; stands in for the stop event too."""

    def __init__(self, start: float = 1000.0) -> None:
        self.time = start
        self.stalls: dict[int, float] = {}
        self.waits = 0
        self._event = threading.Event()

    def __call__(self) -> float:
        return self.time

    def is_set(self) -> bool:
        return self._event.is_set()

    def set(self) -> None:
        self._event.set()

    def wait(self, seconds: float) -> bool:
        self.waits += 1
        self.time += seconds + self.stalls.get(self.waits, 0.0)
        return self.is_set()


class RecordingPublisher:
    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.sent: list[tuple[float, OutMessage]] = []
        self.acknowledged = 0

    def connect(self) -> None:
        self.clock.time += 0.6

    def send(self, messages: Iterable[OutMessage]) -> None:
        self.sent += [(self.clock.time, m) for m in messages]

    def wait_acknowledged(self) -> None:
        self.acknowledged = len(self.sent)


def run(clock: Clock, rate: float, seconds: float) -> RecordingPublisher:
    publisher = RecordingPublisher(clock)
    sent = publish_live(
        World(), publisher, "clicks", rate=rate, seconds=seconds, seed=1, stop=clock, clock=clock
    )  # type: ignore[arg-type]
    assert sent == publisher.acknowledged == len(publisher.sent)
    return publisher


@pytest.mark.parametrize(("rate", "seconds"), [(200, 3), (7, 2), (5000, 0.5), (0.5, 10)])
def test_the_number_of_clicks_is_rate_times_seconds(rate: float, seconds: float) -> None:
    assert len(run(Clock(), rate, seconds).sent) == int(rate * seconds)


def test_a_click_is_dated_when_it_was_due_even_after_a_stall() -> None:
    clock = Clock()
    clock.stalls[50] = 1.5  # this process does not run for 1.5 s
    publisher = run(clock, rate=100, seconds=4)
    assert len(publisher.sent) == 400
    timestamps = [json.loads(m.value or b"")["timestamp"] for _, m in publisher.sent]
    start = 1000.6
    assert timestamps == [int((start + i / 100) * 1000) for i in range(400)]
    assert (
        max(when * 1000 - at for (when, _), at in zip(publisher.sent, timestamps, strict=True))
        > 1400
    )


def test_clicks_are_keyed_by_user_and_come_again_with_the_seed() -> None:
    one, two = (run(Clock(), 500, 1).sent for _ in range(2))
    assert one == two
    for _, message in one:
        assert json.loads(message.value or b"")["user_id"].encode() == message.key


def test_event_ids_are_version_7_and_sort_by_time() -> None:
    made = [uuid7(at, bytes([i] * 10)) for i, at in enumerate((0, 1, 1_700_000_000_000))]
    assert made == sorted(made)
    for text in made:
        parsed = uuid.UUID(text)
        assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert uuid.UUID(made[2]).int >> 80 == 1_700_000_000_000


def test_a_log_ends_now_and_comes_at_its_rate() -> None:
    clicks = World().fast_clicks(20_000, seed=1)
    frame = click_frame(clicks, last_timestamp_ms=10_000_000, rate=200, seed=1)
    assert frame["timestamp"].iloc[-1] == 10_000_000
    assert np.diff(frame["timestamp"]).tolist() == [5] * (len(frame) - 1)
    assert frame["event_id"].is_unique
    assert frame["item_id"].tolist() == [str(i) for i in clicks.items]
