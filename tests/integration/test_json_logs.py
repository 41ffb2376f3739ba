"""A worker that nobody watches on a terminal logs JSON, from its first line to its last."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nextclick.shared.registry import Registry
from nextclick.shared.runtime.settings import PREFIX, KafkaSettings
from tests.conftest import Launch
from tests.integration.traffic import Answers, Shop, make_clicks, publish_model
from tests.waiting import until

Logs = Callable[[str], str]
JSON = {f"{PREFIX}LOG_FORMAT": "auto"}


def records(text: str) -> list[dict[str, Any]]:
    """Every line, parsed, save a last one that is being written."""
    return [json.loads(line) for line in text.split("\n")[:-1]]


def test_every_line_of_a_worker_is_an_object_with_what_it_is_about(
    kafka: KafkaSettings, answers: Answers, launch: Launch, logs: Logs, tmp_path: Path
) -> None:
    registry = tmp_path / "registry"
    first = publish_model(registry, seed=1)
    shop = Shop(kafka)
    worker = launch("worker", **JSON)
    clicks = make_clicks(20)
    shop.send_raw([(b"k", b'{"event_id": "half-a-click"}')])
    shop.send(clicks)
    answers.wait_for({click.event_id for click in clicks})
    second = publish_model(registry, seed=2)
    broken = registry / second / "model.safetensors"
    until(lambda: f"serving model {second}" in logs("worker"), "the swap")
    Registry(str(registry)).rollback()
    until(lambda: logs("worker").count(f"serving model {first}") == 2, "the way back")
    broken.write_bytes(b"garbage")
    pointer = registry / "current.json"
    pointer.write_text(pointer.read_text().replace(first, second))
    until(lambda: "cannot serve" in logs("worker"), "the refusal")
    worker.terminate()
    assert worker.wait(30) == 0

    said = records(logs("worker"))
    for record in said:
        assert {"time", "level", "logger", "service", "message"} <= record.keys()
        assert record["service"] == "worker"

    def only(start: str) -> list[dict[str, Any]]:
        return [record for record in said if record["message"].startswith(start)]

    swaps = [(s["model_version"], s.get("previous_version")) for s in only("serving model")]
    assert swaps == [(first, None), (second, first), (first, second)]
    (refused,) = only(f"model {second} cannot serve")
    assert (refused["model_version"], refused["previous_version"]) == (second, first)
    assert (refused["level"], refused["reason"]) == ("ERROR", "load")
    (dead,) = only("dead-lettered 1")
    assert (dead["event_id"], dead["reason"]) == ("half-a-click", "invalid")
    assert (dead["topic"], dead["offset"]) == (kafka.clicks_topic, 0)
    assert dead["partition"] in range(4)
    assigned = only("assigned partitions")[-1]
    assert set(assigned["partitions"]) <= set(range(4))


def test_what_ends_a_service_is_an_object_too(launch: Launch, logs: Logs) -> None:
    worker = launch("worker", **JSON, **{f"{PREFIX}DEVICE": "cuda:7"})
    assert worker.wait(60) == 2
    (record,) = records(logs("worker"))
    assert record["level"] == "CRITICAL"
    assert "NEXTCLICK_DEVICE = 'cuda:7'" in record["message"]
