"""docker-compose.yml as it is, on a real engine: it serves, is scaled under load, and goes again.

The tests share one running project and follow each other. `make test-containers` builds the image
and runs them.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from confluent_kafka import ConsumerGroupState
from confluent_kafka.admin import AdminClient

from nextclick.shared.errors import Unavailable
from nextclick.shared.kafka import TopicReader
from nextclick.shared.runtime.settings import KafkaSettings
from tests.containers.engine import Engine, find_engine
from tests.waiting import until

pytestmark = pytest.mark.containers

PROJECT = "nextclick-test"
KAFKA = KafkaSettings(bootstrap_servers="localhost:29092")
API = "http://localhost:8000"
OURS = ("simulator", "worker", "trainer", "api")
ANSWERED_SECONDS = 60.0
"""A click is answered in milliseconds; this is for a machine that does all of it on two cores."""


class Shop:
    """A running project, and what its topics hold."""

    def __init__(self, engine: Engine) -> None:
        """Read both topics from their beginning; they must be there."""
        self.engine = engine
        self._clicks = TopicReader(KAFKA, [KAFKA.clicks_topic])
        self._answers = TopicReader(KAFKA, [KAFKA.recommendations_topic])
        self._admin = AdminClient({"bootstrap.servers": KAFKA.bootstrap_servers})
        self.sent: set[str] = set()
        self.answers: dict[str, list[dict[str, Any]]] = {}

    def compose(self, *arguments: str) -> str:
        return self.engine.compose(PROJECT, *arguments)

    def containers(self, service: str) -> list[str]:
        return self.engine.of_service(PROJECT, service)

    def read_clicks(self) -> set[str]:
        """The event ids of every click so far."""
        self.sent |= {click["event_id"] for click in read_to_end(self._clicks)}
        return self.sent

    def read_answers(self) -> dict[str, list[dict[str, Any]]]:
        """Every answer so far, by the event id of its click."""
        for answer in read_to_end(self._answers):
            self.answers.setdefault(answer["event_id"], []).append(answer)
        return self.answers

    def wait_until_answered(self) -> None:
        """Wait until each click that is on the topic now has an answer."""
        sent = set(self.read_clicks())
        until(
            lambda: sent <= self.read_answers().keys(),
            f"{len(sent)} clicks answered",
            ANSWERED_SECONDS,
        )

    def partitions_of_workers(self) -> list[int]:
        """How many partitions each worker of the group has; empty while the group rebalances."""
        (group,) = self._admin.describe_consumer_groups(["nextclick-worker"]).values()
        described = group.result()
        if described.state != ConsumerGroupState.STABLE:
            return []
        return sorted(len(m.assignment.topic_partitions) for m in described.members)

    def scale_workers(self, count: int) -> None:
        """Scale, and wait until each of so many workers has partitions and together they answer."""
        self.engine.scale(PROJECT, "worker", count)
        self.wait_for_workers(count)

    def restart_workers_in_turn(self) -> None:
        """The next one when the one before has partitions again, as in a rolling update."""
        containers = self.containers("worker")
        for container in containers:
            self.engine.run("restart", "--time", "30", container)
            self.wait_for_workers(len(containers))

    def wait_for_workers(self, count: int) -> None:
        """Wait until each of so many workers has partitions, and together they answer."""

        def shared() -> bool:
            partitions = self.partitions_of_workers()
            return len(partitions) == count and 0 not in partitions and sum(partitions) == 8

        until(shared, f"{count} workers share the partitions", 90.0)
        self.wait_until_answered()

    def close(self) -> None:
        self._clicks.close()
        self._answers.close()


def read_to_end(reader: TopicReader) -> Iterator[dict[str, Any]]:
    """What a reader has not read of its topic as it is now; more may come meanwhile.

    Nothing while Kafka cannot say where the topic ends, as when it has just made it.
    """
    try:
        unread = reader.unread()
    except Unavailable:
        return
    while unread > 0:
        messages = reader.poll()
        unread -= len(messages)
        yield from (json.loads(message.value or b"") for message in messages)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return find_engine()


@pytest.fixture(scope="module")
def shop(engine: Engine) -> Iterator[Shop]:
    """`docker compose up`; what was left of a killed run goes first."""
    engine.remove_everything(PROJECT)
    try:
        engine.compose(PROJECT, "up", "-d", "--no-build")
        admin = AdminClient({"bootstrap.servers": KAFKA.bootstrap_servers, "log_level": 0})

        def topics_are_there() -> bool:
            try:
                topics = admin.list_topics(timeout=2).topics
            except Exception:  # Kafka is not up yet
                return False
            return {KAFKA.clicks_topic, KAFKA.recommendations_topic} <= topics.keys()

        until(topics_are_there, "Kafka with the services' topics", 120.0)
        running = Shop(engine)
        yield running
        running.close()
    finally:
        engine.remove_everything(PROJECT)


def get(shop: Shop, path: str, body: dict[str, Any] | None = None) -> Any:
    """Ask the HTTP service; with a body by POST. Returns the decoded JSON."""
    (container,) = shop.containers("api")
    key = shop.engine.run("exec", container, "cat", "/data/keys/api").strip()
    headers = {"content-type": "application/json", "x-api-key": key}
    request = urllib.request.Request(API + path, headers=headers)
    if body is not None:
        request.data = json.dumps(body).encode()
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.loads(response.read())


def api_is_ready() -> bool:
    """Has the HTTP service a model?"""
    try:
        urllib.request.urlopen(f"{API}/readyz", timeout=10).close()
    except urllib.error.HTTPError:
        return False
    return True


def test_a_first_model_is_there_and_clicks_are_answered(shop: Shop) -> None:
    until(lambda: any(shop.read_answers().values()), "an answer, so a first model", 240.0)
    shop.wait_until_answered()
    listed = shop.compose("run", "--rm", "trainer", "models", "list")
    versions = {answer["model_version"] for many in shop.answers.values() for answer in many}
    assert all(version in listed for version in versions)


def test_every_health_check_succeeds(shop: Shop) -> None:
    for service in ("kafka", "redis", "worker", "trainer", "api"):
        (container,) = shop.containers(service)
        until(partial(shop.engine.is_healthy, container), f"{service} healthy", 60.0)


def test_a_click_sent_over_http_is_answered(shop: Shop) -> None:
    until(api_is_ready, "a model for the HTTP service", 60.0)
    accepted = get(shop, "/clicks", {"user_id": "alice", "item_id": "17"})
    until(
        lambda: accepted["event_id"] in shop.read_answers(),
        "alice's click answered",
        ANSWERED_SECONDS,
    )
    assert shop.answers[accepted["event_id"]][0]["history"] == ["17"]
    assert get(shop, "/recommendations/alice")["items"]


def test_no_service_may_do_more_than_it_needs(shop: Shop) -> None:
    for service in OURS:
        (container,) = shop.containers(service)
        assert shop.engine.run("exec", container, "id", "-u").strip() == "10001"
        assert shop.engine.succeeds("exec", container, "touch", "/tmp/x")
        for place in ("/opt/venv/x", "/data/x", "/x"):
            assert not shop.engine.succeeds("exec", container, "touch", place)
    for service in ("kafka", "redis"):
        (container,) = shop.containers(service)
        assert shop.engine.run("exec", container, "id", "-u").strip() != "0"
        assert not shop.engine.succeeds("exec", container, "touch", "/x")


def test_services_are_scaled_and_restarted_under_load_and_no_click_is_lost(shop: Shop) -> None:
    before = len(shop.read_clicks())
    began = time.monotonic()
    shop.scale_workers(2)
    shop.scale_workers(4)
    shop.restart_workers_in_turn()
    (trainer,) = shop.containers("trainer")
    shop.engine.run("restart", "--time", "30", trainer)
    shop.scale_workers(1)
    until(partial(shop.engine.is_healthy, trainer), "the trainer healthy again", 60.0)
    rate = (len(shop.read_clicks()) - before) / (time.monotonic() - began)
    assert rate > 10, f"{rate:.0f} clicks/s is no load"
    shop.compose("stop", "simulator")
    shop.wait_until_answered()
    assert shop.answers.keys() == shop.sent
    doubled = [many for many in shop.answers.values() if len(many) > 1]
    for many in doubled:  # allowed at least once, but from the same history
        assert len({tuple(answer["history"]) for answer in many}) == 1
    print(f"{len(shop.sent)} clicks, {rate:.0f}/s while scaled, {len(doubled)} answered twice")


def test_nothing_became_a_dead_letter(shop: Shop) -> None:
    letters = TopicReader(KAFKA, [KAFKA.dlq_topic])
    assert letters.unread() == 0
    letters.close()


def test_taken_down_it_leaves_nothing_behind(shop: Shop) -> None:
    shop.compose("down", "--volumes")
    for kind in ("container", "volume", "network"):
        assert shop.engine.of_project(kind, PROJECT) == []
