from __future__ import annotations

import json
import logging
import threading
import uuid
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextclick.services.simulator.missions import MissionWorld
from nextclick.services.simulator.publish import click_frame, publish_live
from nextclick.services.simulator.shop import Shop
from nextclick.services.simulator.world import World
from nextclick.shared.messages import OutMessage
from nextclick.shared.schemas import uuid7
from tests.unit.builders import source_clicks


class Clock:
    """Time that passes only while somebody waits; stands in for the stop event too."""

    def __init__(self, start: float = 1000.0) -> None:
        self.time = start
        self.stalls: dict[int, float] = {}
        self.waits = 0
        self.stop_at: int | None = None
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
        if self.waits == self.stop_at:
            self.set()
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


def run(
    clock: Clock, rate: float, seconds: float | None, shop: Shop | None = None
) -> RecordingPublisher:
    publisher = RecordingPublisher(clock)
    sent = publish_live(
        (shop or World()).traffic(seed=1),
        publisher,
        "clicks",
        rate=rate,
        seconds=seconds,
        seed=1,
        stop=clock,
        clock=clock,
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
    assert timestamps == [int((start + i / 100) * 1000) for i in range(1, 401)]
    assert (
        max(when * 1000 - at for (when, _), at in zip(publisher.sent, timestamps, strict=True))
        > 1400
    )


def test_clicks_are_keyed_by_user_and_come_again_with_the_seed() -> None:
    one, two = (run(Clock(), 500, 1).sent for _ in range(2))
    assert one == two
    for _, message in one:
        assert json.loads(message.value or b"")["user_id"].encode() == message.key


def test_the_clicks_of_a_mission_world_travel_by_name() -> None:
    world = MissionWorld()
    sent = [json.loads(m.value or b"") for _, m in run(Clock(), 500, 1, world).sent]
    clicks = world.clicks(500, seed=1)
    assert [click["item_id"] for click in sent] == clicks.items.tolist()
    assert [click["user_id"] for click in sent] == clicks.users.astype(str).tolist()
    assert {click["item_id"] for click in sent} <= set(world.item_ids)
    frame = click_frame(clicks, last_timestamp_ms=10_000, rate=200, seed=1)
    assert frame["item_id"].tolist() == clicks.items.tolist()


def test_event_ids_are_version_7_and_sort_by_time() -> None:
    made = [uuid7(at, bytes([i] * 10)) for i, at in enumerate((0, 1, 1_700_000_000_000))]
    assert made == sorted(made)
    for text in made:
        parsed = uuid.UUID(text)
        assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert uuid.UUID(made[2]).int >> 80 == 1_700_000_000_000


def test_a_log_ends_now_and_comes_at_its_rate() -> None:
    clicks = source_clicks(World(), 20_000, seed=1)
    frame = click_frame(clicks, last_timestamp_ms=10_000_000, rate=200, seed=1)
    assert frame["timestamp"].iloc[-1] == 10_000_000
    assert np.diff(frame["timestamp"]).tolist() == [5] * (len(frame) - 1)
    assert frame["event_id"].is_unique
    assert frame["item_id"].tolist() == [str(i) for i in clicks.items]


@pytest.mark.parametrize(("rate", "seconds"), [(100, 0.29), (100, 2.3)])
def test_no_click_is_lost_to_rounding(rate: float, seconds: float) -> None:
    """0.29 * 100 is 28.999… in doubles."""
    assert len(run(Clock(), rate, seconds).sent) == round(rate * seconds)


@pytest.mark.parametrize(("rate", "seconds"), [(0.5, 9), (0.1, 5), (1000, 2)])
def test_a_run_ends_when_its_time_is_over(rate: float, seconds: float) -> None:
    clock = Clock(1000.0)
    run(clock, rate, seconds)
    assert clock.time - 1000.6 == pytest.approx(seconds, abs=0.01)


@pytest.mark.parametrize("rate", [2, 100])
def test_a_click_is_sent_when_it_is_due(rate: float) -> None:
    for when, message in run(Clock(), rate, seconds=2).sent:
        late_ms = when * 1000 - json.loads(message.value or b"")["timestamp"]
        assert 0 <= late_ms < 5


def test_clicks_that_are_due_together_are_sent_together() -> None:
    clock = Clock()
    publisher = run(clock, rate=50_000, seconds=0.2)
    assert len(publisher.sent) == 10_000
    assert clock.waits < 250  # one millisecond at least between two calls


@pytest.mark.parametrize("seconds", [1000, None])
def test_a_stop_ends_it_after_what_was_sent_is_acknowledged(seconds: float | None) -> None:
    clock = Clock()
    clock.stop_at = 3000
    publisher = run(clock, rate=100, seconds=seconds)
    assert len(publisher.sent) == pytest.approx(100 * (clock.time - 1000.6), abs=1)
    assert 1000 < len(publisher.sent) <= 3000
    assert publisher.acknowledged == len(publisher.sent)


def test_it_says_now_and_then_how_it_goes(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        run(Clock(), rate=100, seconds=25)
    assert [r.message for r in caplog.records] == [
        "1000 clicks sent, 100/s, 0 ms late",
        "2000 clicks sent, 100/s, 0 ms late",
    ]


@given(
    at=st.integers(0, 2**48 - 1),
    randomness=st.binary(min_size=10, max_size=10),
    later=st.integers(1, 10**6),
)
def test_any_event_id_is_a_uuid_of_version_7(at: int, randomness: bytes, later: int) -> None:
    parsed = uuid.UUID(uuid7(at, randomness))
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert parsed.int >> 80 == at
    random_bits = (0xFFF << 64) | ((1 << 62) - 1)
    assert parsed.int & random_bits == int.from_bytes(randomness) & random_bits
    if at + later < 2**48:
        assert uuid7(at, b"\xff" * 10) < uuid7(at + later, b"\0" * 10)


def test_a_log_of_no_clicks_is_an_empty_frame() -> None:
    frame = click_frame(source_clicks(World(), 0, seed=1), 10_000, rate=10, seed=1)
    assert list(frame.columns) == ["event_id", "user_id", "item_id", "timestamp"]
    assert len(frame) == 0
