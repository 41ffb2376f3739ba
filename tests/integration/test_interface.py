"""Clicks onto Kafka and recommendations from it, by `import nextclick`."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
import pytest

import nextclick
from nextclick.shared.errors import ConfigurationError, Unavailable
from nextclick.shared.kafka import Publisher, TopicReader, ensure_topics
from nextclick.shared.messages import OutMessage, of_user
from nextclick.shared.runtime.settings import KafkaSettings
from nextclick.shared.schemas import ScoredItem, decode_click
from tests.integration.traffic import make_clicks
from tests.waiting import until

NOON = 1_600_000_000_000


def sent(kafka: KafkaSettings, count: int) -> list[nextclick.Click]:
    reader = TopicReader(kafka, [kafka.clicks_topic])
    found: list[nextclick.Click] = []

    def all_there() -> bool:
        found.extend(decode_click(message.value) for message in reader.poll())
        return len(found) >= count

    until(all_there, "the clicks")
    reader.close()
    return found


def answer(number: int) -> nextclick.Recommendation:
    return nextclick.Recommendation(
        event_id=f"event-{number}",
        user_id="alice",
        items=[ScoredItem("a", 0.5)],
        model_version="v",
        history=["b"],
        click_timestamp=NOON,
        scored_at=NOON + 1,
    )


def test_a_frame_is_published(kafka: KafkaSettings) -> None:
    frame = pd.DataFrame({"user_id": [1, 1, 2], "item_id": ["a", "b", "a"]})
    frame["timestamp"] = [NOON, NOON + 1, NOON]
    assert nextclick.publish_clicks(frame, kafka) == 3
    assert nextclick.publish_clicks(frame, kafka) == 3
    clicks = sent(kafka, 6)
    of_one = [(c.item_id, c.timestamp) for c in clicks if c.user_id == "1"]
    assert of_one == [("a", NOON), ("b", NOON + 1)] * 2
    assert len({c.event_id for c in clicks}) == 3, "published again, they count once"


def test_clicks_are_published_as_they_come(kafka: KafkaSettings) -> None:
    first, second = make_clicks(2)

    def shop() -> Iterator[nextclick.Click]:
        yield first
        assert sent(kafka, 1) == [first]
        yield second

    assert nextclick.publish_clicks(shop(), kafka) == 2
    assert {c.event_id for c in sent(kafka, 2)} == {first.event_id, second.event_id}


def test_what_came_before_a_failure_is_published(kafka: KafkaSettings) -> None:
    frame = pd.DataFrame({"user_id": ["u", "u"], "item_id": ["a", ""], "timestamp": [NOON, NOON]})
    with pytest.raises(ConfigurationError, match="row 1 is not a click: item_id"):
        nextclick.publish_clicks(frame, kafka)
    assert [c.item_id for c in sent(kafka, 1)] == ["a"]


def test_recommendations_are_read(kafka: KafkaSettings) -> None:
    topic = kafka.recommendations_topic
    with pytest.raises(Unavailable, match=topic):
        nextclick.recommendations(kafka)
    ensure_topics(kafka, [topic])
    publisher = Publisher(kafka)

    def send(*messages: OutMessage) -> None:
        publisher.send(messages)
        publisher.wait_acknowledged()

    send(of_user(topic, answer(0)))
    new = nextclick.recommendations(kafka)
    send(of_user(topic, answer(1)), OutMessage(topic, b"alice", b"{}"), of_user(topic, answer(2)))
    assert [next(new), next(new)] == [answer(1), answer(2)]
    every = nextclick.recommendations(kafka, from_beginning=True, silence_seconds=2)
    assert list(every) == [answer(0), answer(1), answer(2)]
