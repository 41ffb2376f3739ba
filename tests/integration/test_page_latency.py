"""The page's latency is the worker's own, measured from the topic."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from nextclick.services.api.page.feed import Feed
from nextclick.shared.embedded import free_port
from nextclick.shared.kafka import Publisher
from nextclick.shared.messages import of_user
from nextclick.shared.runtime.settings import PREFIX, KafkaSettings
from nextclick.shared.schemas import Click
from tests.conftest import Launch
from tests.integration.traffic import publish_model
from tests.waiting import until

CLICKS = 300
WARM_UP = 20


@pytest.fixture
def feed(kafka: KafkaSettings, environ: dict[str, str]) -> Iterator[Feed]:
    feed = Feed(kafka, environ[f"{PREFIX}WORKER__GROUP_ID"], {})
    yield feed
    feed.stop()


def click(number: int) -> Click:
    return Click(
        event_id=f"e{number}",
        user_id=f"user-{number % 30}",
        item_id=str(number % 50 + 1),
        timestamp=int(time.time() * 1000),
    )


def seconds_and_count(port: int) -> tuple[float, float]:
    """The worker's nextclick_click_to_acknowledged_seconds: its sum and its count."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    (found,) = (f for f in families if f.name == "nextclick_click_to_acknowledged_seconds")
    values = {sample.name.rpartition("_")[2]: sample.value for sample in found.samples}
    return values["sum"], values["count"]


def answered(port: int) -> float:
    try:
        return seconds_and_count(port)[1]
    except OSError:
        return -1  # it does not listen yet


@pytest.mark.long
@pytest.mark.parametrize("guarantee", ["at_least_once", "exactly_once"])
def test_the_mean_is_that_of_the_workers_histogram(
    guarantee: str, launch: Launch, feed: Feed, kafka: KafkaSettings, tmp_path: Path
) -> None:
    port = free_port()
    publish_model(tmp_path / "registry", seed=1)
    launch(
        "worker",
        **{f"{PREFIX}WORKER__METRICS_PORT": str(port), f"{PREFIX}WORKER__GUARANTEE": guarantee},
    )
    publisher = Publisher(kafka)
    publisher.send(of_user(kafka.clicks_topic, click(i)) for i in range(WARM_UP))
    until(lambda: answered(port) == WARM_UP, "the worker is warm")
    stream = feed.watch()
    until(lambda: stream.points, "the page follows")
    seconds, count = seconds_and_count(port)
    for i in range(WARM_UP, WARM_UP + CLICKS):
        publisher.send([of_user(kafka.clicks_topic, click(i))])
        publisher.serve()
        time.sleep(0.01)
    until(lambda: stream.answers == CLICKS, "the page has read all")
    until(lambda: seconds_and_count(port)[1] == count + CLICKS, "the worker has counted all")
    own = (seconds_and_count(port)[0] - seconds) / CLICKS * 1000
    seen = [ms for step in (*stream._latencies, stream._step_latencies) for ms in step]
    # A reader that is late shows many times the worker's figure. A quarter, or 10 ms: the broker
    # tells the worker and this reader at once, and a busy machine runs one of them that much later.
    assert sum(seen) / len(seen) == pytest.approx(own, rel=0.25, abs=10)
