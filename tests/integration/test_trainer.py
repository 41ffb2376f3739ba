"""The trainer as a real process."""

from __future__ import annotations

import json
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from nextclick.services.simulator.publish import click_frame
from nextclick.services.simulator.world import World
from nextclick.shared.embedded import free_port
from nextclick.shared.kafka import ensure_topics
from nextclick.shared.kafka.topic_id import TopicId
from nextclick.shared.registry import Registry
from nextclick.shared.runtime.settings import PREFIX, KafkaSettings
from nextclick.shared.schemas import Click
from nextclick.trainer.collect import EventLog
from tests.conftest import Launch
from tests.integration.traffic import Shop
from tests.unit.builders import source_clicks
from tests.waiting import until

QUICK = {
    f"{PREFIX}TRAINER__MAX_EPOCHS": "2",
    f"{PREFIX}TRAINER__TORCH_THREADS": "1",
    f"{PREFIX}TRAINER__FLUSH_SECONDS": "0.2",
}


def world_clicks(count: int, seed: int) -> list[Click]:
    """Clicks of the simulated world: there is something in them to learn."""
    clicks = source_clicks(World(), count * 6, seed)
    frame = click_frame(clicks, 1_700_000_000_000, rate=200, seed=seed).head(count)
    return [Click(**row) for row in frame.to_dict("records")]


@pytest.fixture
def event_log(tmp_path: Path) -> EventLog:
    return EventLog(str(tmp_path / "event_log"))


@pytest.fixture
def shop(kafka: KafkaSettings) -> Shop:
    ensure_topics(kafka, [kafka.clicks_topic])
    return Shop(kafka)


def test_once_logs_everything_publishes_and_exits(
    shop: Shop, event_log: EventLog, launch: Launch, logs: Callable[[str], str], tmp_path: Path
) -> None:
    clicks = world_clicks(6_000, seed=1)
    shop.send(clicks)
    shop.send_raw([(b"u", b"not a click")])
    json_logs = {f"{PREFIX}LOG_FORMAT": "json"}
    assert launch("trainer", "--once", **QUICK, **json_logs).wait(120) == 0, logs("trainer")

    held = event_log.read()
    assert Counter(held["event_id"]) == Counter(c.event_id for c in clicks)
    registry = Registry(str(tmp_path / "registry"))
    pointer = registry.pointer()
    assert pointer is not None, logs("trainer")
    manifest = registry.manifest(pointer.version)
    said = [json.loads(line) for line in logs("trainer").splitlines()]
    (outcome,) = [record for record in said if "outcome" in record]
    assert (outcome["outcome"], outcome["model_version"]) == ("published", pointer.version)
    assert 0 < outcome["seconds"] < 120
    assert manifest.parent is None
    assert manifest.training["clicks"] == len(clicks)
    assert manifest.metrics["test_hr@10"] > manifest.metrics["test_popularity_hr@10"]

    # Again, as cron would: the old clicks are not logged twice, the model starts from its parent,
    # and waits.
    more = world_clicks(1000, seed=2)
    shop.send(more)
    waits = {f"{PREFIX}TRAINER__PROMOTE": "false"}
    assert launch("trainer", "--once", **QUICK, **waits).wait(120) == 0, logs("trainer")
    assert Counter(event_log.read()["event_id"]) == Counter(c.event_id for c in [*clicks, *more])
    newest = registry.versions()[-1]
    if newest == pointer.version:  # the gate may say no; then it says why
        assert "refused the candidate" in logs("trainer")
    else:
        assert registry.pointer() == replace(pointer, waiting=newest)
        assert f"published {newest}, which waits" in logs("trainer")
        assert registry.manifest(newest).parent == pointer.version
        assert registry.manifest(newest).training["warm_start"] is True


def test_an_imported_log_is_trained_on_without_kafka(
    event_log: EventLog, launch: Launch, logs: Callable[[str], str], tmp_path: Path
) -> None:
    event_log.import_clicks(
        click_frame(source_clicks(World(), 12_000, 1), 1_700_000_000_000, rate=200, seed=1)
    )
    away = {f"{PREFIX}KAFKA__BOOTSTRAP_SERVERS": f"127.0.0.1:{free_port()}"}
    trainer = launch("trainer", "--once", "--no-collect", **QUICK, **away)
    assert trainer.wait(120) == 0, logs("trainer")
    (version,) = Registry(str(tmp_path / "registry")).versions()

    # Again: there is nothing new to learn.
    assert launch("trainer", "--once", "--no-collect", **QUICK, **away).wait(60) == 0
    assert f"no click was logged since version {version} was trained" in logs("trainer")
    forced = launch("trainer", "--once", "--no-collect", "--force", **QUICK, **away)
    assert forced.wait(120) == 0
    assert logs("trainer").count("retraining on 2530 clicks") == 2


def test_a_collector_and_a_trainer_are_two_processes(
    shop: Shop, event_log: EventLog, launch: Launch, logs: Callable[[str], str], tmp_path: Path
) -> None:
    port = str(free_port())
    collector = launch("collector", **QUICK, **{f"{PREFIX}TRAINER__METRICS_PORT": port})
    clicks = world_clicks(6_000, seed=8)
    shop.send(clicks)
    until(lambda: event_log.count() == len(clicks), "every click in the log")
    with urllib.request.urlopen(f"http://localhost:{port}/readyz") as answer:
        assert json.load(answer) == {"kafka": "ok", "event_log": "ok"}
    trainer_port = str(free_port())
    trainer = launch(
        "trainer",
        "--no-collect",
        **QUICK,
        **{
            f"{PREFIX}TRAINER__METRICS_PORT": trainer_port,
            f"{PREFIX}TRAINER__EVERY_CLICKS": "5000",
            f"{PREFIX}KAFKA__BOOTSTRAP_SERVERS": f"127.0.0.1:{free_port()}",
        },
    )
    registry = Registry(str(tmp_path / "registry"))
    until(lambda: registry.pointer() is not None, "a version is published")
    with urllib.request.urlopen(f"http://localhost:{trainer_port}/readyz") as answer:
        assert json.load(answer) == {"event_log": "ok", "registry": "ok"}
    for process in (collector, trainer):
        process.terminate()
    assert [collector.wait(30), trainer.wait(30)] == [0, 0], logs("trainer")


def test_once_ends_although_a_partition_ends_in_a_transaction_marker(
    kafka: KafkaSettings, shop: Shop, event_log: EventLog, launch: Launch
) -> None:
    """A marker takes an offset but is no message: the last click is not at the very end."""
    clicks = world_clicks(50, seed=7)
    producer = Producer(
        {"bootstrap.servers": kafka.bootstrap_servers, "transactional.id": kafka.clicks_topic}
    )
    producer.init_transactions(10)
    producer.begin_transaction()
    for c in clicks:
        producer.produce(kafka.clicks_topic, c.model_dump_json(), c.user_id)
    producer.commit_transaction(10)
    assert launch("trainer", "--once", **QUICK).wait(60) == 0
    assert event_log.count() == len(clicks)


def test_a_trainer_killed_while_it_collects_logs_each_click_once(
    shop: Shop, event_log: EventLog, launch: Launch
) -> None:
    clicks = world_clicks(6000, seed=3)
    collect_only = {
        **QUICK,
        f"{PREFIX}TRAINER__MIN_CLICKS": "1000000",
        f"{PREFIX}TRAINER__INSTANCE_ID": "t",
    }
    shop.send(clicks[:3000])
    first = launch("trainer", **collect_only)
    until(lambda: event_log.count() > 0, "the first files")
    first.kill()
    first.wait()
    shop.send(clicks[3000:])
    second = launch("trainer", **collect_only)
    until(lambda: event_log.count() >= len(clicks), "every click in the log")
    second.terminate()
    assert second.wait(30) == 0
    assert Counter(event_log.read()["event_id"]) == Counter(c.event_id for c in clicks)


def test_too_few_clicks_train_nothing(
    shop: Shop, launch: Launch, logs: Callable[[str], str], tmp_path: Path
) -> None:
    shop.send(world_clicks(100, seed=4))
    assert launch("trainer", "--once", **QUICK).wait(60) == 0
    assert "100 clicks logged, too few to train on" in logs("trainer")
    assert Registry(str(tmp_path / "registry")).pointer() is None


def test_an_event_log_that_is_ahead_of_its_topic_is_refused(
    kafka: KafkaSettings,
    shop: Shop,
    event_log: EventLog,
    launch: Launch,
    logs: Callable[[str], str],
) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    event_log.topic_id = TopicId(kafka, kafka.clicks_topic, admin).read()
    event_log.append([], {0: 1_000_000})
    shop.send(world_clicks(10, seed=5))
    assert launch("trainer", "--once", **QUICK).wait(60) == 2
    assert "NEXTCLICK_TRAINER__EVENT_LOG" in logs("trainer")


def test_a_broken_champion_does_not_stop_the_trainer(
    shop: Shop, launch: Launch, logs: Callable[[str], str], tmp_path: Path
) -> None:
    registry = tmp_path / "registry"
    registry.mkdir()
    (registry / "current.json").write_text(json.dumps({"version": "gone", "history": []}))
    shop.send(world_clicks(6_000, seed=6))
    assert launch("trainer", "--once", **QUICK).wait(120) == 0, logs("trainer")
    assert "the champion cannot be loaded" in logs("trainer")
    pointer = Registry(str(registry)).pointer()
    assert pointer is not None
    assert pointer.version != "gone"
