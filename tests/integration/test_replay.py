"""`nextclick replay` onto a real Kafka, killed on the way."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nextclick.shared.kafka import TopicReader, ensure_topics
from nextclick.shared.runtime.settings import KafkaSettings
from nextclick.shared.schemas import Click
from tests.conftest import Launch
from tests.waiting import until

CLICKS = 3000


@pytest.fixture
def on_topic(kafka: KafkaSettings) -> Iterator[Callable[[], list[Click]]]:
    """All clicks on the topic so far."""
    ensure_topics(kafka, [kafka.clicks_topic])
    reader = TopicReader(kafka, [kafka.clicks_topic])
    seen: list[Click] = []

    def read() -> list[Click]:
        while messages := reader.poll(10_000, timeout=0.3):
            seen.extend(Click.model_validate_json(m.value or b"") for m in messages)
        return seen

    yield read
    reader.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A click every 10 ms."""
    path = tmp_path / "clicks.csv"
    rows = [f"u{i % 7},i{i % 50},{1_600_000_000_000 + 10 * i}" for i in range(CLICKS)]
    path.write_text("user,item,time\n" + "\n".join(rows) + "\n")
    return path


def test_a_replay_that_was_killed_goes_on(
    launch: Launch, file: Path, on_topic: Callable[[], list[Click]], logs: Callable[[str], str]
) -> None:
    state = file.with_name(".clicks.csv.replay.json")
    first = launch("replay", str(file), "--speed", "5x")
    until(lambda: state.exists() and json.loads(state.read_text())["sent"] > 0, "clicks are sent")
    first.kill()
    first.wait()
    sent = json.loads(state.read_text())["sent"]
    assert 0 < sent < CLICKS

    second = launch("replay", str(file), "--speed", "max")
    assert second.wait(60) == 0
    assert not state.exists()
    seen = on_topic()
    times = Counter(click.event_id for click in seen)
    assert len(times) == CLICKS
    assert {click.timestamp for click in seen} == {
        1_600_000_000_000 + 10 * i for i in range(CLICKS)
    }
    for user in {click.user_id for click in seen}:  # in order, but for what was sent again
        mine = [click for click in seen if click.user_id == user]
        once = list({click.event_id: click for click in mine}.values())
        assert [c.timestamp for c in once] == sorted(c.timestamp for c in once)

    file.write_text(file.read_text() + "u,i,1600000099999\n")
    third = launch("replay", str(file), "--speed", "1x")
    until(state.exists, "the changed file is a replay of its own")
    third.terminate()
    assert third.wait(30) == 0
    file.write_text(file.read_text() + "u,i,1600000199999\n")
    refused = launch("replay", str(file))
    assert refused.wait(30) == 2
    assert "--restart starts over" in logs("replay")


def test_now_dates_clicks_when_they_are_sent(
    launch: Launch, file: Path, on_topic: Callable[[], list[Click]]
) -> None:
    for _ in range(2):  # the second time they are new clicks
        assert launch("replay", str(file), "--speed", "max", "--now").wait(60) == 0
    seen = on_topic()
    assert len({click.event_id for click in seen}) == 2 * CLICKS
    assert min(click.timestamp for click in seen) > 1_700_000_000_000


def test_checking_and_refusing_send_nothing(
    launch: Launch, file: Path, on_topic: Callable[[], list[Click]], logs: Callable[[str], str]
) -> None:
    assert launch("replay", str(file), "--check").wait(60) == 0
    file.write_text(file.read_text() + "broken\n")
    assert launch("replay", str(file), "--strict", "--speed", "max").wait(60) == 2
    assert on_topic() == []
    assert "line 3002" in logs("replay")
    assert "nothing was sent" in logs("replay")
