"""`nextclick forget` on real servers: whatever is there of a user goes, and does not come back."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from fastapi.testclient import TestClient

from nextclick.services.api.access import access
from nextclick.services.api.app import create_app
from nextclick.services.cli.forgetting import forget_by_http
from nextclick.services.worker import decide
from nextclick.shared.errors import BadClick
from nextclick.shared.kafka import Publisher, ensure_topics
from nextclick.shared.messages import Message
from nextclick.shared.redis import session_store
from nextclick.shared.registry import Registry
from nextclick.shared.runtime.settings import PREFIX, KafkaSettings, Settings
from nextclick.shared.schemas import Click
from nextclick.trainer.collect import EventLog
from tests.backend import Backend
from tests.conftest import Launch
from tests.integration.terminal import nextclick
from tests.integration.traffic import Answers, Shop, make_clicks, publish_model

USER = "user-7"


@pytest.fixture
def settings(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in environ.items():
        if name.startswith(PREFIX):
            monkeypatch.setenv(name, value)
    return Settings.from_environment()


def collect(launch: Launch, logs: Callable[[str], str]) -> None:
    few = {f"{PREFIX}TRAINER__MIN_CLICKS": "1000000"}
    assert launch("trainer", "--once", **few).wait(60) == 0, logs("trainer")


def users_logged(settings: Settings) -> set[str]:
    return set(EventLog(settings.trainer.event_log).read()["user_id"])


def forget(
    environ: dict[str, str], tmp_path: Path, *options: str, code: int = 0
) -> tuple[str, dict[str, Any]]:
    """What the command says, and its certificate."""
    file = tmp_path / "certificate.json"
    result = nextclick(environ, "forget", USER, "--certificate", str(file), *options)
    assert (result.returncode, result.stderr) == (code, ""), result.stdout
    return result.stdout, json.loads(file.read_text())


def dead_letter(kafka: KafkaSettings, key: bytes, value: bytes) -> None:
    message = Message(kafka.clicks_topic, 2, 0, key, value)
    now_ms = int(time.time() * 1000)
    publisher = Publisher(kafka)
    publisher.send(
        [decide.dead_letter(kafka.dlq_topic, message, BadClick("invalid", "why"), now_ms)]
    )
    publisher.wait_acknowledged()


def test_from_the_first_click_to_the_last_certificate(
    environ: dict[str, str],
    settings: Settings,
    kafka: KafkaSettings,
    answers: Answers,
    launch: Launch,
    logs: Callable[[str], str],
    key_prefix: str,
    backend: Backend,
    tmp_path: Path,
) -> None:
    clicks = make_clicks(400)
    theirs = sum(click.user_id == USER for click in clicks)
    shop, registry = Shop(kafka), Registry(settings.registry.url)
    versions = [publish_model(tmp_path / "registry", seed=seed) for seed in (1, 2)]
    worker = launch("worker")
    shop.send(clicks)
    dead_letter(kafka, b"k", b'{"user_id": "user-7"}')
    dead_letter(kafka, b"user-8", b"{}")
    answered = {click.event_id for click in clicks}
    answers.wait_for(answered)
    collect(launch, logs)
    assert USER in users_logged(settings)

    said, certificate = forget(environ, tmp_path, "--count-messages", "--remove-models")
    assert certificate["complete"], certificate
    assert "complete" in said.splitlines()[-2]
    assert USER not in json.dumps(certificate)
    assert certificate["sessions"]["removed"] == 1
    assert certificate["event_log"]["rows_removed"] == theirs
    counted = {topic["name"]: topic for topic in certificate["topics"]}
    assert counted[kafka.clicks_topic]["messages"] == theirs
    assert counted[kafka.recommendations_topic]["messages"] == theirs
    assert len(counted[kafka.dlq_topic]["positions"]) == 1
    assert all(topic["gone_by"] for topic in counted.values())
    models = certificate["models"]
    assert models["trained_on_user"] == versions
    assert (models["removed"], models["served"]) == ([versions[0]], versions[1])
    assert registry.versions() == [versions[1]]
    with redis.Redis.from_url(backend.redis_url) as client:
        assert not client.exists(f"{key_prefix}{USER}")
        assert client.exists(f"{key_prefix}user-8")
    assert USER not in users_logged(settings)

    late = clicks[0].model_copy(update={"user_id": USER, "event_id": "late"})
    new = late.model_copy(update={"event_id": "new", "timestamp": int(time.time() * 1000) + 1000})
    shop.send([late, new])
    answers.wait_for(answered | {"late", "new"})
    collect(launch, logs)
    logged = EventLog(settings.trainer.event_log).read()
    theirs_now = logged[logged["user_id"] == USER]
    assert list(theirs_now["event_id"]) == ["new"], "the click of a new customer"
    redriven = nextclick(environ, "dlq", "redrive").stdout
    assert "1 redriven" in redriven
    assert "1 skipped: forgotten" in redriven
    _, certificate = forget(environ, tmp_path)
    assert certificate["event_log"]["rows_removed"] == certificate["sessions"]["removed"] == 1
    assert worker.poll() is None


@pytest.mark.long
def test_what_cannot_be_reached_is_named_and_the_rest_is_done(
    environ: dict[str, str], settings: Settings, kafka: KafkaSettings, tmp_path: Path
) -> None:
    ensure_topics(kafka, [kafka.clicks_topic])
    sessions = session_store(settings)
    sessions.append([Click(event_id="e", user_id=USER, item_id="1", timestamp=1)])
    sessions.close()
    nowhere = {f"{PREFIX}KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    said, certificate = forget(environ | nowhere, tmp_path, code=1)
    assert "127.0.0.1:1" in said
    assert "NOT COMPLETE" in said
    assert certificate["sessions"]["removed"] == 1
    assert any("there is no event log" in text for text in certificate["remaining"])
    assert certificate["user_hash"] is certificate["topics"] is certificate["models"] is None

    EventLog(settings.trainer.event_log)
    Shop(kafka).send(make_clicks(1))  # no worker will pass it
    said, certificate = forget(environ, tmp_path, "--wait", "0", code=1)
    assert "1 clicks behind" in said
    assert certificate["found"] is False
    assert "nothing of this user was found" in said
    tombstone = EventLog(settings.trainer.event_log).tombstones().get(USER)
    assert tombstone is not None, "for late clicks of an unknown user"


def test_what_is_no_user_id_is_one_line(environ: dict[str, str], tmp_path: Path) -> None:
    for user, why in (("", "has 0"), ("u" * 129, "has 129")):
        result = nextclick(environ, "forget", user)
        assert result.returncode == 2
        assert result.stderr.count("\n") == 1
        assert why in result.stderr
    result = nextclick(environ, "forget", "u", "--certificate", str(tmp_path / "no" / "file"))
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)


def test_by_http(settings: Settings, kafka: KafkaSettings) -> None:
    ensure_topics(kafka, kafka.topics)
    log = EventLog(settings.trainer.event_log)
    app = create_app(
        SimpleNamespace(alive={}, ready={}),  # type: ignore[arg-type]
        settings.api,
        10,
        access(settings.api),
        forget=lambda user_id: forget_by_http(settings, user_id),
    )
    client = TestClient(app, base_url="http://localhost")
    answer = client.delete("/users/a%2Fb%20%C3%BC")
    assert answer.status_code == 200, answer.text
    assert answer.json()["complete"] is True
    assert log.tombstones().get("a/b ü") is not None
    assert client.delete(f"/users/{'u' * 129}").status_code == 422
    elsewhere = settings.trainer.model_copy(update={"event_log": f"{settings.trainer.event_log}-2"})
    settings = settings.model_copy(update={"trainer": elsewhere})
    answer = client.delete("/users/u")
    assert answer.status_code == 202
    assert "there is no event log" in answer.json()["remaining"][0]
