from __future__ import annotations

from pathlib import Path

import pytest

from shared.errors import ConfigurationError
from shared.settings import Settings, environment_names

DOCS = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_values_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXTCLICK_WORKER__TOP_K", "20")
    monkeypatch.setenv("NEXTCLICK_KAFKA__CLIENT_CONFIG", '{"security.protocol": "SSL"}')
    settings = Settings.from_environment()
    assert settings.worker.top_k == 20
    assert settings.kafka.client_config == {"security.protocol": "SSL"}


@pytest.mark.parametrize(
    "name", ["NEXTCLICK_DEVISE", "NEXTCLICK_WORKER__TOPK", "NEXTCLICK_KAFKA", "NEXTCLICK_"]
)
def test_unknown_names_are_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(ConfigurationError, match=name):
        Settings.from_environment()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NEXTCLICK_WORKER__TOP_K", "0"),
        ("NEXTCLICK_WORKER__TOP_K", "x"),
        ("NEXTCLICK_WORKER__GUARANTEE", "exactly_twice"),
        ("NEXTCLICK_SESSION__GAP_SECONDS", "-1"),
        ("NEXTCLICK_LOG_LEVEL", "LOUD"),
        ("NEXTCLICK_KAFKA__BOOTSTRAP_SERVERS", ""),
    ],
)
def test_wrong_values_name_the_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=name):
        Settings.from_environment()


def test_secrets_do_not_print(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXTCLICK_REDIS__URL", "redis://:hunter2@localhost")
    monkeypatch.setenv("NEXTCLICK_KAFKA__CLIENT_CONFIG", '{"sasl.password": "hunter2"}')
    assert "hunter2" not in f"{Settings.from_environment()!r} {Settings.from_environment()}"


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().worker.top_k = 5


def test_every_setting_is_documented() -> None:
    text = DOCS.read_text()
    for name, (default, meaning) in environment_names().items():
        assert f"`{name}`" in text
        assert default in text
        assert meaning in text
