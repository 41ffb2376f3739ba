"""A password in a file: read again, given to the client when it has changed, never shown."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from confluent_kafka import KafkaError

from nextclick.shared.errors import ConfigurationError, Unavailable
from nextclick.shared.kafka import Publisher
from nextclick.shared.kafka.client import client_config, failed, login_error
from nextclick.shared.kafka.login import Login
from nextclick.shared.runtime.masking import redact
from nextclick.shared.runtime.settings import KafkaSettings


class Client:
    def __init__(self) -> None:
        self.given: list[tuple[str, str]] = []

    def set_sasl_credentials(self, user: str, password: str) -> None:
        self.given.append((user, password))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "password"
    made.write_text("correct horse\n")
    return made


def settings(file: Path, **options: str) -> KafkaSettings:
    return KafkaSettings(
        client_config={"sasl.username": "shop", **options}, sasl_password_file=str(file)
    )


def test_a_client_is_given_each_new_password_once(file: Path) -> None:
    now = 0.0
    client = Client()
    login = Login(settings(file), client, clock=lambda: now)
    for password in ("correct horse", "battery staple"):
        file.write_text(f"{password}\r\n")
        for _ in range(3):
            now += 2
            login.renew()
    assert client.given == [("shop", "correct horse"), ("shop", "battery staple")]
    assert redact((), "correct horse, battery staple") == "…, …"


def test_the_file_is_not_read_all_the_time(file: Path) -> None:
    client = Client()
    login = Login(settings(file), client, clock=lambda: 7.0)
    login.renew()
    file.write_text("another")
    login.renew()
    assert client.given == [("shop", "correct horse")]


def test_while_the_file_is_away_the_password_stays(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    client = Client()
    login = Login(settings(file), client, clock=lambda: now)
    login.renew()
    for content in (b"", b"\xff", None):
        now += 2
        file.unlink() if content is None else file.write_bytes(content)
        login.renew()
    assert client.given == [("shop", "correct horse")]
    assert [r.levelno for r in caplog.records] == [logging.WARNING], "once a minute"
    assert "NEXTCLICK_KAFKA__SASL_PASSWORD_FILE" in caplog.text


def test_without_a_file_nothing_is_done() -> None:
    client = Client()
    Login(KafkaSettings(client_config={"sasl.username": "u", "sasl.password": "p"}), client).renew()
    assert client.given == []


def test_a_client_begins_with_the_password_of_the_file(file: Path) -> None:
    ours = settings(
        file, **{"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "SCRAM-SHA-512"}
    )
    assert client_config(ours)["sasl.password"] == "correct horse"
    Publisher(ours).serve()  # librdkafka takes it, and what is set later


@pytest.mark.parametrize("options", [{"sasl.password": "correct horse"}, {"sasl.username": ""}])
def test_two_passwords_or_no_user_are_refused(file: Path, options: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match=r"must have sasl\.username, and no") as caught:
        client_config(settings(file, **options))
    assert "horse" not in str(caught.value)


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff"])
def test_a_file_without_a_password_is_refused_at_the_start(
    file: Path, content: bytes | None
) -> None:
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"SASL_PASSWORD_FILE = .*(cannot be read|empty)"):
        client_config(settings(file))


def test_a_refused_login_is_waited_for_if_the_password_may_change(file: Path) -> None:
    refused = KafkaError(KafkaError._AUTHENTICATION, "SASL authentication error: no such user")
    assert isinstance(failed(KafkaSettings(), refused), ConfigurationError)
    waits = failed(settings(file), refused)
    assert isinstance(waits, Unavailable)
    assert str(file) in str(waits)


def test_a_connection_that_breaks_during_the_login_refuses_nothing() -> None:
    refused = KafkaError(KafkaError._AUTHENTICATION, "SASL authentication error: no such user")
    broke = KafkaError(
        KafkaError._AUTHENTICATION,
        "GroupCoordinator: SASL SCRAM-SHA-512 mechanism handshake failed: Local: Broker transport "
        "failure: broker's supported mechanisms: (n/a) (after 0ms in state DOWN)",
    )
    elsewhere = KafkaError(KafkaError._TRANSPORT, "Connection refused")
    assert isinstance(failed(KafkaSettings(), broke), Unavailable)
    assert login_error(refused, None) is refused
    assert login_error(broke, refused) is refused
    assert login_error(elsewhere, refused) is refused
    assert login_error(broke, None) is broke
    assert login_error(refused, broke) is refused
    assert login_error(elsewhere, None) is None
