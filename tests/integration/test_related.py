"""`nextclick related`: the topic follows the served version and the items topic."""

from __future__ import annotations

import dataclasses
import signal

import pytest

from nextclick.services.items.publish import publish as publish_items
from nextclick.services.related.main import publish_once
from nextclick.services.related.publisher import digest, messages
from nextclick.shared.errors import NextclickError
from nextclick.shared.kafka import (
    Publisher,
    ensure_topics,
    read_items,
    read_offsets,
    retained_offsets,
    topic_config,
)
from nextclick.shared.messages import Message, OutMessage
from nextclick.shared.registry import Registry
from nextclick.shared.runtime.settings import KafkaSettings, Settings
from nextclick.shared.schemas import Item, RelatedItems
from tests.conftest import Launch
from tests.unit.builders import checkpoint, related_lists
from tests.waiting import until


@pytest.fixture
def settings(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return Settings.from_environment()


def make_version(settings: Settings, items: int = 30) -> str:
    made = dataclasses.replace(checkpoint(items), related=related_lists(items))
    return Registry(settings.registry.url).publish(made)


def held(kafka: KafkaSettings) -> list[Message]:
    topic = kafka.related_topic
    ensure_topics(kafka, [topic])
    return list(read_offsets(kafka, topic, retained_offsets(kafka, topic)))


def content(kafka: KafkaSettings) -> dict[str, RelatedItems]:
    """What a reader knows who has read the topic: the newest message of each item."""
    newest = {(message.key or b"").decode(): message.value for message in held(kafka)}
    return {
        key: RelatedItems.model_validate_json(value)
        for key, value in newest.items()
        if value is not None
    }


@pytest.mark.long
def test_what_is_sent_is_what_the_topic_does_not_say(settings: Settings) -> None:
    kafka, first = settings.kafka, make_version(settings)
    assert publish_once(settings) == 30
    known = content(kafka)
    assert known["29"].model_dump(exclude={"similar"}) == {
        "item_id": "29",
        "bought_together": [
            {"item_id": i, "score": s}
            for i, s in (("30", 0.5), ("1", 0.333333), ("2", 0.25), ("3", 0.2), ("4", 0.166667))
        ],
        "bought_together_basis": "purchases",
        "model_version": first,
        "items_offset": 0,
        "schema_version": 1,
    }
    assert [item.item_id for item in known["2"].similar] == [str(i) for i in range(3, 23)]
    assert topic_config(kafka, kafka.related_topic)["cleanup.policy"] == "compact"
    assert publish_once(settings) == 0

    # As if a run had been cut off, and somebody had written what is none.
    publisher = Publisher(kafka)
    publisher.send([OutMessage(kafka.related_topic, b"3", None),
                    OutMessage(kafka.related_topic, b"4", b"{}"),
                    OutMessage(kafka.related_topic, b"unheard-of", b"{}")])  # fmt: skip
    publisher.wait_acknowledged()
    assert publish_once(settings) == 3
    assert content(kafka) == known

    publish_items(kafka, {"5": Item(item_id="5", available=False), "6": Item(item_id="6")})
    assert publish_once(settings) == 20, "those that have it among their first 20"
    changed = content(kafka)
    assert [item.item_id for item in changed["3"].bought_together] == ["4", "6", "7", "8"]
    assert {known[i] == changed[i] for i in ("5", "6", "14")} == {True}
    assert (changed["4"].items_offset, changed["5"].items_offset) == (2, 0)

    lists, states = Registry(settings.registry.url).related_lists(first), read_items(kafka).states
    assert lists is not None
    ids = [str(i) for i in range(1, 31)]
    again = messages(lists, ids, range(1, 31), first, states)
    assert {m.item_id: digest(m) for m in again} == {i: digest(m) for i, m in changed.items()}

    second = make_version(settings, items=29)
    assert publish_once(settings) == 29 + 1
    assert content(kafka).keys() == changed.keys() - {"30"}
    assert {message.model_version for message in content(kafka).values()} == {second}


def test_without_lists_it_says_so(settings: Settings) -> None:
    with pytest.raises(NextclickError, match="has no model yet"):
        publish_once(settings)
    Registry(settings.registry.url).publish(checkpoint())
    with pytest.raises(NextclickError, match="has no related items"):
        publish_once(settings)


@pytest.mark.long
def test_the_command_follows_the_registry_and_the_items(settings: Settings, launch: Launch) -> None:
    kafka, first = settings.kafka, make_version(settings)
    process = launch("related")

    def versions() -> set[str]:
        return {message.model_version for message in content(kafka).values()}

    until(lambda: versions() == {first} and len(content(kafka)) == 30, "the first version")
    second = make_version(settings, items=20)
    twenty = {str(i) for i in range(1, 21)}
    until(lambda: versions() == {second} and content(kafka).keys() == twenty, "the second version")
    before = len(held(kafka))
    publish_items(kafka, {"7": None})
    until(lambda: len(held(kafka)) == before + 19, "7 is in no list")
    assert all(
        "7" not in {item.item_id for item in (*of.similar, *of.bought_together)}
        for of in content(kafka).values()
    )
    Registry(settings.registry.url).rollback(reason="a test")
    until(lambda: versions() == {first} and len(content(kafka)) == 30, "the first again")
    assert launch("related", "--once").wait(60) == 0
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
