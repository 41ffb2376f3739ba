"""Health and readiness of real processes."""

from __future__ import annotations

import dataclasses
import json
import shutil
import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from nextclick.shared import embedded
from nextclick.shared.registry import Registry
from nextclick.shared.runtime.settings import PREFIX
from tests.conftest import Launch
from tests.integration.traffic import publish_model
from tests.unit.builders import checkpoint, related_lists
from tests.waiting import until


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(port: int, path: str) -> tuple[int, dict[str, str]]:
    """Status and body; (0, {}) if nobody listens yet."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)
    except OSError:
        return 0, {}


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        return str(response.read().decode())


def test_a_worker_is_ready_when_it_can_answer_and_alive_throughout(
    launch: Launch, port: int, tmp_path: Path
) -> None:
    redis = embedded.start_redis(tmp_path / "redis")
    try:
        launch(
            "worker",
            **{
                f"{PREFIX}WORKER__METRICS_PORT": str(port),
                f"{PREFIX}REDIS__URL": f"redis://{redis.address}/0",
            },
        )
        until(lambda: ask(port, "/readyz")[0], "somebody listens")
        status, body = ask(port, "/readyz")
        assert status == 503
        assert (body["redis"], body["kafka"]) == ("ok", "ok")
        assert "no model yet" in body["model"]
        assert ask(port, "/healthz") == (200, {"loop": "ok"})

        version = publish_model(tmp_path / "registry", seed=1)
        until(lambda: ask(port, "/readyz")[0] == 200, "the worker is ready")

        redis.kill()
        until(lambda: ask(port, "/readyz")[0] == 503, "Redis is missed")
        status, body = ask(port, "/readyz")
        assert "NEXTCLICK_REDIS__URL" in body.pop("redis")
        assert set(body.values()) == {"ok"}
        assert ask(port, "/healthz")[0] == 200

        redis.restart()
        until(lambda: ask(port, "/readyz")[0] == 200, "the worker is ready again")
        until(lambda: 'nextclick_consumer_lag{partition="3"} 0.0' in scrape(port), "the lag")
        assert f'nextclick_model_info{{version="{version}"}} 1.0' in scrape(port)
    finally:
        redis.kill()


def test_a_port_that_is_taken_ends_a_worker_with_one_line(
    launch: Launch, port: int, logs: Callable[[str], str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", port))
        taken.listen()
        worker = launch("worker", **{f"{PREFIX}WORKER__METRICS_PORT": str(port)})
        assert worker.wait(60) == 2
    assert f"NEXTCLICK_WORKER__METRICS_PORT = {port}" in logs("worker")
    assert "Traceback" not in logs("worker")


def test_a_trainer_is_ready_while_log_and_registry_are_there(
    launch: Launch, port: int, tmp_path: Path
) -> None:
    launch("trainer", **{f"{PREFIX}TRAINER__METRICS_PORT": str(port)})
    until(lambda: ask(port, "/readyz")[0] == 200, "the trainer is ready")
    assert set(ask(port, "/readyz")[1]) == {"kafka", "event_log", "registry"}
    assert ask(port, "/healthz") == (200, {"loop": "ok", "collector": "ok"})
    shutil.rmtree(tmp_path / "event_log")
    until(lambda: ask(port, "/readyz")[0] == 503, "the event log is missed")
    assert "NEXTCLICK_TRAINER__EVENT_LOG" in ask(port, "/readyz")[1]["event_log"]


def test_related_items_are_ready_once_their_topic_is_up_to_date(
    launch: Launch, port: int, tmp_path: Path
) -> None:
    launch("related", **{f"{PREFIX}RELATED__METRICS_PORT": str(port)})
    until(
        lambda: "no model yet" in ask(port, "/readyz")[1].get("topic", ""),
        "it says what is missing",
    )
    assert ask(port, "/readyz")[1]["items"] == "ok"
    assert ask(port, "/healthz") == (200, {"loop": "ok"})
    made = dataclasses.replace(checkpoint(), related=related_lists())
    Registry(str(tmp_path / "registry")).publish(made)
    until(lambda: ask(port, "/readyz")[0] == 200, "the topic is up to date")
    assert "nextclick_related_messages_total 30.0" in scrape(port)


def test_a_trainer_that_misses_kafka_is_alive_and_not_ready(
    launch: Launch, port: int, tmp_path: Path
) -> None:
    kafka = embedded.start_kafka(tmp_path / "kafka")
    try:
        launch(
            "trainer",
            **{
                f"{PREFIX}TRAINER__METRICS_PORT": str(port),
                f"{PREFIX}KAFKA__BOOTSTRAP_SERVERS": kafka.address,
            },
        )
        until(lambda: ask(port, "/readyz")[0] == 200, "the trainer is ready")
    finally:
        kafka.kill()
    until(lambda: ask(port, "/readyz")[0] == 503, "Kafka is missed")
    body = ask(port, "/readyz")[1]
    assert body.pop("kafka") != "ok"
    assert set(body.values()) == {"ok"}
    assert ask(port, "/healthz") == (200, {"loop": "ok", "collector": "ok"})
