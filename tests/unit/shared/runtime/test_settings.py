from __future__ import annotations

from pathlib import Path

import pytest

from nextclick.shared.errors import ConfigurationError
from nextclick.shared.runtime.settings import Settings, environment_names

DOCS = Path(__file__).parents[4] / "docs" / "configuration.md"


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


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ('{"home": {"min_price": 5, "max_price": 2}}', "home = .*min_price 5 is above max_price 2"),
        (
            '{"home": {"boosts": {"tags": {"x": 0}}}}',
            r"home\.boosts\.tags\.x = 0: .*greater than 0",
        ),
        ('{"home": {"pins": [{"position": 11, "item_id": "a"}]}}', "home: .*position 11 .* of 10,"),
        ('{"ho me": {}}', "ho me"),
        ("[]", "valid dictionary"),
        ('{"home"', "is not a JSON object"),
    ],
)
def test_a_wrong_profile_is_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, value: str, line: str
) -> None:
    monkeypatch.setenv("NEXTCLICK_PROFILES", value)
    with pytest.raises(ConfigurationError, match=rf"^NEXTCLICK_PROFILES\b.*{line}") as refused:
        Settings.from_environment()
    assert "\n" not in str(refused.value)


def test_topics_of_profiles(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(topics: str) -> Settings:
        monkeypatch.setenv("NEXTCLICK_KAFKA__PROFILE_TOPICS", topics)
        return Settings.from_environment()

    monkeypatch.setenv("NEXTCLICK_PROFILES", '{"cart": {"max_price": 20}, "home": {}}')
    kafka = read('{"r.cart": "cart", "recommendations": "home"}').kafka
    assert kafka.answer_topics == ["recommendations", "r.cart"]
    assert kafka.topics == ["clicks", "recommendations", "r.cart", "clicks.dlq", "items"]
    name = "NEXTCLICK_KAFKA__PROFILE_TOPICS"
    with pytest.raises(ConfigurationError, match=rf"{name}: r: .*'x'.* has: cart, home"):
        read('{"r": "x"}')
    for taken in ("clicks", "clicks.dlq", "items", "items.related"):
        with pytest.raises(ConfigurationError, match=f"{name}: {taken} is a topic of other"):
            read(f'{{"{taken}": "cart"}}')
    with pytest.raises(ConfigurationError, match="at least 1 char"):
        read('{"": "cart"}')


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


def test_nothing_set_means_the_defaults() -> None:
    settings = Settings.from_environment()
    assert settings == Settings()
    assert settings.kafka.bootstrap_servers == "localhost:9092"
    assert settings.redis.url.get_secret_value() == "redis://localhost:6379/0"
    assert settings.session.gap_seconds == 1800
    assert settings.session.ttl_seconds == 86_400
    assert (settings.worker.top_k, settings.worker.guarantee) == (10, "at_least_once")


@pytest.mark.parametrize("name", environment_names())
def test_every_name_takes_its_documented_default(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, environment_names()[name][0])
    assert Settings.from_environment() == Settings()


def test_the_least_values_that_make_sense_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXTCLICK_WORKER__TOP_K", "1")
    monkeypatch.setenv("NEXTCLICK_SESSION__GAP_SECONDS", "0")
    settings = Settings.from_environment()
    assert (settings.worker.top_k, settings.session.gap_seconds) == (1, 0)


def test_all_unknown_names_are_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXTCLICK_A", "1")
    monkeypatch.setenv("NEXTCLICK_B__C", "1")
    with pytest.raises(ConfigurationError, match="NEXTCLICK_A, NEXTCLICK_B__C"):
        Settings.from_environment()


def test_all_wrong_values_are_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXTCLICK_WORKER__TOP_K", "x")
    monkeypatch.setenv("NEXTCLICK_TRAINER__SEED", "y")
    with pytest.raises(ConfigurationError, match=r"WORKER__TOP_K = 'x'.*TRAINER__SEED = 'y'"):
        Settings.from_environment()


@pytest.mark.parametrize("name", ["nextclick_devise", "Nextclick_Worker_Top_K"])
def test_a_typo_in_small_letters_does_not_pass_silently(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Small letters are read, so they are checked too."""
    monkeypatch.setenv("nextclick_worker__top_k", "3")
    assert Settings.from_environment().worker.top_k == 3
    monkeypatch.setenv(name, "1")
    with pytest.raises(ConfigurationError, match=name):
        Settings.from_environment()


@pytest.mark.parametrize(
    "name",
    [
        "NEXTCLICK_SESSION__GAP_SECONDS",  # milliseconds for Redis: int(inf) crashes the worker
        "NEXTCLICK_KAFKA__RETENTION_HOURS",
        "NEXTCLICK_REGISTRY__POLL_SECONDS",
        "NEXTCLICK_REDIS__TIMEOUT_SECONDS",
    ],
)
def test_a_time_that_never_ends_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "inf")
    with pytest.raises(ConfigurationError, match=name):
        Settings.from_environment()


@pytest.mark.parametrize(
    "value", ["sasl.password=hunter2", '{"sasl.password": "hunter2"', '["hunter2"]', '"hunter2"']
)
def test_a_wrong_client_config_names_the_variable_and_keeps_the_secret(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("NEXTCLICK_KAFKA__CLIENT_CONFIG", value)
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_environment()
    assert "hunter2" not in str(caught.value)
    assert "NEXTCLICK_KAFKA__CLIENT_CONFIG" in str(caught.value)
    assert caught.value.__cause__ is None
