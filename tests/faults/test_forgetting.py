"""`nextclick forget` is killed after any of its steps; the next one completes the work."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from nextclick.services.forget import forget
from nextclick.shared.kafka import ensure_topics
from nextclick.shared.redis import session_store
from nextclick.shared.runtime.settings import KafkaSettings, Settings
from nextclick.shared.schemas import Click
from nextclick.trainer.collect import EventLog
from tests.faults import children
from tests.faults.tampering import die
from tests.unit.trainer.collect.test_event_log import put
from tests.unit.trainer.collect.test_forgetting import clicks_of, files_with

USER = "a-user-who-is-forgotten"
STEPS = ["tombstone", "count", "rows", "files", "models", "sessions", "workers", "topics"]


def _forget(environ: dict[str, str], fatal_step: str) -> None:
    os.environ.clear()
    os.environ.update(environ)

    def on_step(step: str) -> None:
        print(step, flush=True)
        if step == fatal_step:
            die()

    forget.run(Settings.from_environment(), USER, on_step=on_step)


def test_killed_after_any_step(
    environ: dict[str, str], kafka: KafkaSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure_topics(kafka, kafka.topics)
    log = EventLog(str(tmp_path / "event_log"))
    put(log, 0, 0, [*clicks_of(USER, 10, 11), *clicks_of("other", 12)])
    with monkeypatch.context() as patch:
        for name, value in environ.items():
            patch.setenv(name, value)
        settings = Settings.from_environment()
    sessions = session_store(settings)
    try:
        sessions.append([Click(event_id="e", user_id=USER, item_id="1", timestamp=1)])
        for step in STEPS:
            output = tmp_path / step
            process = children.call(partial(_forget, environ, step), output)
            process.join(60)
            assert output.read_text().splitlines()[-1] == step
            assert set(log.read()["user_id"]) == {"other"}, "the tombstone is the first thing"
        certificate = forget.run(settings, USER)
        assert certificate.complete, certificate
        assert sessions.read([USER])[0].history == []
    finally:
        sessions.close()
    assert files_with(log, USER) == []
    assert log.tombstones().get(USER) is not None
