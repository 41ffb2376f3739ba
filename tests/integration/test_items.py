"""The items topic: followed, obeyed by lists, and what happens when it is broken or away."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis
from typer.testing import CliRunner

from nextclick.services.api.main import open_components
from nextclick.services.api.recommender import ListRequest
from nextclick.services.cli import app
from nextclick.services.items.publish import publish
from nextclick.shared import embedded
from nextclick.shared.errors import ConfigurationError
from nextclick.shared.kafka import (
    ItemCatalogue,
    Publisher,
    ensure_topics,
    read_items,
    read_offsets,
    retained_offsets,
    topic_config,
)
from nextclick.shared.messages import Message, OutMessage
from nextclick.shared.runtime.settings import PREFIX, KafkaSettings, Settings
from nextclick.shared.schemas import Item, Recommendation
from tests.conftest import Launch
from tests.integration.traffic import (
    Answers,
    Shop,
    check_lists,
    make_clicks,
    make_topic_anew,
    publish_model,
)
from tests.waiting import until


@pytest.fixture
def followed(kafka: KafkaSettings) -> Iterator[ItemCatalogue]:
    with ItemCatalogue(kafka, keep_values=True) as items:
        until(lambda: items.wait(0.2), "the topic is read")
        yield items


def content(kafka: KafkaSettings) -> list[Message]:
    topic = kafka.items_topic
    return list(read_offsets(kafka, topic, retained_offsets(kafka, topic)))


def send(kafka: KafkaSettings, *messages: tuple[bytes | None, bytes | None]) -> None:
    publisher = Publisher(kafka)
    publisher.send([OutMessage(kafka.items_topic, *message) for message in messages])
    publisher.wait_acknowledged()


def test_the_topic_keeps_tombstones_and_what_makes_lists_computable(kafka: KafkaSettings) -> None:
    ensure_topics(kafka, kafka.topics)
    config = topic_config(kafka, kafka.items_topic)
    assert config["cleanup.policy"] == "compact"
    assert int(config["delete.retention.ms"]) >= 99 * 365 * 86_400_000
    kept = int(topic_config(kafka, kafka.recommendations_topic)["retention.ms"])
    assert int(config["min.compaction.lag.ms"]) > kept
    assert len(retained_offsets(kafka, kafka.items_topic)) == 1


def test_a_follower_hears_of_all_that_is_said_and_of_what_is_no_item_nothing(
    kafka: KafkaSettings, followed: ItemCatalogue, caplog: pytest.LogCaptureFixture
) -> None:
    publish(kafka, {"1": None, "2": Item(item_id="2", title="Bowl", available=False)})
    assert followed.wait_until(lambda table: table.states.offset == 2, 20)
    assert followed.states.withheld == {"1", "2"}
    assert followed.states.retired == {"1"}
    send(kafka, (b"3", b"no json"), (b"1", b'{"item_id": "2"}'), (b"", b"{}"), (b"4", None))
    said = f"first {kafka.items_topic}/0/2"  # after the table has changed
    assert followed.wait_until(lambda t: t.states.offset == 6 and said in caplog.text, 20)
    assert followed.states.withheld == {"1", "2", "4"}
    assert followed.table.titles == {"2": "Bowl"}
    assert read_items(kafka).states == followed.states
    followed.check()


def test_a_topic_made_anew_is_read_again(kafka: KafkaSettings, followed: ItemCatalogue) -> None:
    publish(kafka, {"1": None, "2": None})
    assert followed.wait_until(lambda table: table.states.offset == 2, 20)
    make_topic_anew(kafka.model_copy(update={"partitions": 1}), kafka.items_topic)
    assert followed.states.withheld == {"1", "2"}  # until there is something new
    publish(kafka, {"3": None})
    assert followed.wait_until(lambda table: table.states.withheld == {"3"}, 30)


def test_a_topic_with_several_partitions_is_refused(kafka: KafkaSettings) -> None:
    ensure_topics(kafka, [kafka.clicks_topic])
    wrong = kafka.model_copy(update={"items_topic": kafka.clicks_topic, "clicks_topic": "other"})
    with ItemCatalogue(wrong) as items, pytest.raises(ConfigurationError, match="4 partitions"):  # noqa: PT012
        while not items.wait(1.0):
            pass


def test_the_commands(
    kafka: KafkaSettings, environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, ["items", *arguments])
        assert done.exit_code == code, done.output
        return done.output

    file = tmp_path / "items.csv"
    file.write_text("sku,title,price\n1,Bowl,3.5\n2,Leash,cheap\n3,Ball,\n")
    assert "price" in run("load", str(file))
    run("retire", "1", "9")
    listed = {one["item_id"]: one for one in json.loads(run("list", "--json", "-"))}
    assert listed["3"] == {"item_id": "3", "state": "available", "title": "Ball"}
    assert {i: one["state"] for i, one in listed.items()} == {
        "1": "retired",
        "3": "available",
        "9": "retired",
    }
    assert "2 items restored, 1 were" in run("restore", "1", "9", "3")
    assert json.loads(run("list", "--retired", "--json", "-")) == []
    assert len(content(kafka)) == 6


@pytest.mark.long
def test_a_retired_item_is_in_no_list_whatever_is_lost(
    kafka: KafkaSettings, answers: Answers, environ: dict[str, str], launch: Launch, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A worker as a process: on the topic and over HTTP, after FLUSHALL and a restart."""
    registry, server = tmp_path / "registry", embedded.start_redis(tmp_path / "redis")
    here = {f"{PREFIX}REDIS__URL": f"redis://{server.address}/0"}
    publish_model(registry, seed=1)
    shop, clicks = Shop(kafka), iter(make_clicks(3000))

    def answered(count: int) -> list[Recommendation]:
        sent = list(itertools.islice(clicks, count))
        shop.send(sent)
        wanted = {click.event_id for click in sent}
        until(lambda: wanted <= {a.event_id for a in answers.peek()}, f"{count} answers")
        return [answer for answer in answers.seen if answer.event_id in wanted]

    def hold(item_id: str, found: list[Recommendation]) -> bool:
        return any(item_id in {item.item_id for item in answer.items} for answer in found)

    try:
        worker = launch("worker", **here)
        best = answered(50)[0].items[0].item_id
        assert launch("items", "retire", best).wait(60) == 0
        until(lambda: answered(1)[0].items_offset == 1, "the worker knows", 20)
        assert not hold(best, answered(50))
        worker.kill()
        worker.wait()
        with closing(redis.Redis(port=server.port)) as client:
            client.flushall()
        launch("worker", **here)
        assert not hold(best, answered(50))
        for name, value in (environ | here).items():
            monkeypatch.setenv(name, value)
        with open_components(Settings.from_environment()) as api:
            assert api.slot.wait(30)
            until(lambda: api.items.wait(0.2), "the topic is read")
            wanted = ListRequest(None, ["3"], 50, False)
            future = api.recommend._answer([wanted])
            assert best not in {item.item_id for item in future[0].items}
            assert len(future[0].items) == 49
        assert launch("items", "restore", best).wait(60) == 0
        until(lambda: hold(best, answered(20)), "it is back", 20)
        check_lists(answers.seen, registry, content(kafka))
        assert {answer.items_offset for answer in answers.seen} == {0, 1, 2}
    finally:
        server.kill()
