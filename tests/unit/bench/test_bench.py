from __future__ import annotations

import io
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from nextclick.bench import arrivals, cli, echo, load, train
from nextclick.bench.latency import GUARANTEES, Floor, LatencyTable, Row, seconds_of
from nextclick.bench.models import random_checkpoint, random_delta
from nextclick.bench.options import parse_choices, parse_sizes, write_json
from nextclick.bench.round_trip import Percentiles, Servers, join, percentiles
from nextclick.bench.scorer import measure
from nextclick.bench.timing import Timing, in_turns
from nextclick.bench.traffic import traffic
from nextclick.services.worker import decide
from nextclick.shared.errors import ConfigurationError, NextclickError
from nextclick.shared.messages import Message
from nextclick.shared.model import BST, Scorer
from nextclick.shared.model.delta import applied, from_bytes, to_bytes
from nextclick.shared.schemas import Click
from tests.unit.builders import CPU


def test_contestants_take_turns() -> None:
    calls: list[str] = []
    times = in_turns(
        {"one": lambda: calls.append("one"), "other": lambda: calls.append("other")},
        CPU,
        rounds=3,
        least_seconds=0.0,
    )
    assert calls == ["one", "other"] * 4  # the first turn warms up
    assert [len(timing.rounds) for timing in times.values()] == [3, 3]


def test_a_ratio_is_taken_within_each_round() -> None:
    """A machine that halves its speed in one round changes no ratio."""
    assert Timing([1.0, 2.0, 1.0]).ratio(Timing([3.0, 6.0, 3.0])) == 3.0
    assert Timing([1.0, 5.0, 2.0]).median == 2.0


def test_sizes_are_read_with_their_suffix() -> None:
    assert parse_sizes("--catalogue", "50, 10k,1M") == [50, 10_000, 1_000_000]
    for wrong in ("", "x", "1.5k", "0", "10,", "-3"):
        with pytest.raises(ConfigurationError, match="--catalogue"):
            parse_sizes("--catalogue", wrong)


def test_choices_are_among_what_is_known() -> None:
    assert parse_choices("--guarantee", "exactly_once, at_least_once", GUARANTEES) == [
        "exactly_once",
        "at_least_once",
    ]
    with pytest.raises(ConfigurationError, match=r"--guarantee.*'twice'.*at_least_once"):
        parse_choices("--guarantee", "at_least_once,twice", GUARANTEES)


@pytest.mark.parametrize("pair", [*itertools.combinations(("swap", "experiment", "deltas"), 2)])
def test_only_one_thing_happens_to_the_model_of_a_run(pair: tuple[str, str]) -> None:
    options = [word for name in pair for word in (f"--{name}", "yes")]
    done = CliRunner().invoke(cli.app, ["latency", *options])
    assert isinstance(done.exception, ConfigurationError)
    assert "only one of them can be yes" in str(done.exception)


class Clock:
    """Time passes only in `sleep`, and whenever something is sent."""

    def __init__(self, seconds_per_send: float) -> None:
        self.now = 1000.0
        self.seconds_per_send = seconds_per_send
        self.sent: list[list[tuple[int, float]]] = []

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def send(self, batch: Sequence[tuple[int, float]]) -> None:
        self.sent.append(list(batch))
        self.now += self.seconds_per_send


def send(clock: Clock, rate: float, count: int) -> list[float]:
    return load.send_on_schedule(
        clock.send,
        rate=rate,
        count=count,
        start=1000.5,
        clock=lambda: clock.now,
        sleep=clock.sleep,
    )


def test_each_click_is_sent_when_it_is_due() -> None:
    clock = Clock(seconds_per_send=0.001)
    late = send(clock, rate=10, count=30)
    assert [[number for number, _ in batch] for batch in clock.sent] == [[n] for n in range(30)]
    assert [due for ((_, due),) in clock.sent] == pytest.approx(
        [1000.5 + n / 10 for n in range(30)]
    )
    assert late == pytest.approx([0.001] * 30)


def test_a_load_generator_that_is_late_catches_up_and_says_so() -> None:
    """Kafka takes 0.25 s for each batch, and clicks are due every 0.1 s."""
    clock = Clock(seconds_per_send=0.25)
    late = send(clock, rate=10, count=30)
    assert [number for batch in clock.sent for number, _ in batch] == list(range(30))
    assert max(len(batch) for batch in clock.sent) == 3
    assert min(late) >= 0.25
    assert max(late) < 0.5
    assert clock.now - 1000.5 < 30 / 10 + 0.5


def answer(event_id: str, version: str = "v1") -> bytes:
    return json.dumps({"event_id": event_id, "model_version": version}).encode()


def test_a_random_delta_fits_its_base() -> None:
    base = random_checkpoint(40)
    delta = random_delta(base, "v1", "ab", 3)
    assert from_bytes(to_bytes(delta)).number == 3
    assert len(applied(delta, base).vocabulary) == 50


def test_latency_counts_from_when_a_click_was_due(tmp_path: Path) -> None:
    """Not from its timestamp, which has whole milliseconds only."""
    recorded = [
        (99.0, answer("warm-0")),
        (100.0, answer(load.event_id(0), "v0")),  # of the lead-in
        (100.25, answer(load.event_id(2))),
        (100.375, answer(load.event_id(1), "v2")),
        (100.5, answer(load.event_id(1))),
    ]
    arrivals.save(recorded, tmp_path / "file")
    read = list(arrivals.load(tmp_path / "file"))
    assert read == recorded
    joined = join(read, start=100.0, rate=10, clicks=range(1, 3))
    assert joined.latencies_ms.tolist() == pytest.approx([50.0, 275.0])
    assert (joined.duplicates, joined.versions) == (1, ("v1", "v2"))
    with pytest.raises(NextclickError, match="1 of 3 clicks"):
        join(read, start=100.0, rate=10, clicks=range(1, 4))


class Pieces:
    """A reader that is given what to read, and nothing after it."""

    def __init__(self, *pieces: int) -> None:
        self._pieces = list(pieces)

    def poll(self, max_messages: int = 1000, timeout: float = 0.5) -> list[Message]:
        count = self._pieces.pop(0) if self._pieces else 0
        return [Message("answers", 0, 0, None, b"{}") for _ in range(count)]


def test_the_reader_ends_after_the_last_answer_and_keeps_what_is_too_many(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(arrivals, "DUPLICATES_SECONDS", 0.01)
    recorded = arrivals.record(Pieces(3, 0, 2, 1, 1), warm_up=4, clicks=2)
    assert len(recorded) == 7
    assert [when for when, _ in recorded] == sorted(when for when, _ in recorded)
    assert capsys.readouterr().out == "warm\n"


def test_the_reader_gives_up_what_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "SILENCE_SECONDS", 0.01)
    assert len(arrivals.record(Pieces(3), warm_up=0, clicks=4)) == 3


def test_the_echo_answers_with_a_message_of_a_real_size() -> None:
    history = [f"item-{row}" for row in range(5000, 5010)]
    click = Click(
        event_id=load.event_id(7), user_id="123", item_id=history[-1], timestamp=1_764_130_801_000
    )
    (ranking,) = Scorer(random_checkpoint(10_000), CPU, 10).recommend([history])
    real = decide.recommendation(
        click, history, ranking, "20260101T000000Z-0000", click.timestamp
    ).model_dump_json()
    echoed = echo.answer(click.model_dump())
    assert json.loads(echoed).keys() == json.loads(real).keys()
    assert json.loads(echoed)["click_timestamp"] == click.timestamp
    assert len(echoed) == pytest.approx(len(real.encode()), rel=0.05)


def test_the_load_draws_the_same_clicks_again() -> None:
    one, other = load.clicks(50, 30_000, seed=3), load.clicks(50, 30_000, seed=3)
    numbers = [0, 1, 9_999, 10_000, 29_999]
    made = [one(number, load.event_id(number), 5) for number in numbers]
    assert made == [other(number, load.event_id(number), 5) for number in numbers]
    assert [load.number_of(click.event_id) for click in made] == numbers
    assert load.number_of("warm-0000") is None


def test_a_low_rate_is_run_for_longer() -> None:
    assert seconds_of(5, 12) == 20
    assert seconds_of(1000, 12) == 12


def test_the_table_of_latencies_is_not_cut() -> None:
    latency = percentiles(np.array([1.0, 2.0, 1234.0]))
    assert latency == Percentiles(3, 2.0, pytest.approx(987.6), pytest.approx(1209.36), 1234.0)
    table = LatencyTable()
    table.add_floor(Floor(3000, latency, 0.1))
    for guarantee in GUARANTEES:
        table.add(
            Row(3000, 100_000, guarantee, True, 3, 1, -1, 2, latency, 12.3, 45.6, 0, 0.012, 0.1)
        )
    console = Console(width=cli.console.width, record=True, file=io.StringIO())
    table.show(console, Servers(Path(), {}, "4.1.0", 29_000))
    text = console.export_text()
    for line in ("at least once", "exactly once", "100,000", "1,209.4", "45.6", "1.2%"):
        assert line in text
    assert "…" not in text
    assert "Apache Kafka 4.1.0" in text
    assert "29,000 clicks" in text


@pytest.mark.long
def test_the_scorer_is_measured_against_the_slow_ways_and_the_limit(tmp_path: Path) -> None:
    row = measure(300, 4, CPU, rounds=1)
    assert row.clicks_per_second == pytest.approx(4000 / row.served_ms)
    assert 0 < row.encode_limit_ms < row.encode_ms
    assert row.encode_limit_ms < row.limit_ms < row.served_ms
    assert row.per_candidate_ratio > 10
    assert 0 < row.profile_us[0] < row.profile_us[3]
    write_json(tmp_path / "out.json", [row], CPU)
    document = json.loads((tmp_path / "out.json").read_text())
    assert document["rows"][0]["items"] == 300
    assert document["environment"]["device"] == "cpu"


def test_the_measured_model_has_the_shape_that_the_default_preset_serves() -> None:
    small, large = random_checkpoint(50), random_checkpoint(20_000)
    assert isinstance(small.model, BST)
    assert isinstance(large.model, BST)
    assert small.model.config.dropout < large.model.config.dropout
    assert len(large.model.catalogue()) == len(large.vocabulary) == 20_000


def test_the_load_clicks_items_that_the_model_knows() -> None:
    clicks = next(traffic(items=30, users=4, seed=0))
    known = set(random_checkpoint(30).vocabulary.item_ids)
    assert set(clicks.items) == known
    assert set(clicks.users.tolist()) == {0, 1, 2, 3}


def test_a_champion_is_ahead_of_nothing_and_reading_is_measured_too() -> None:
    read, cold, warm = train.measure(2_000, 5_000, epochs=2)
    assert read.clicks == 5_000
    assert read.per_second == pytest.approx(5_000 / read.seconds)
    assert cold.epochs == warm.epochs == 2
    assert warm.ndcg > cold.ndcg
    assert 0 <= warm.seconds_to_quality <= warm.seconds
    assert cold.per_second > 0
