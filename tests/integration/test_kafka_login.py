"""SASL and TLS of Kafka, as far as the embedded broker goes: PLAIN with any password, no TLS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shared import embedded
from shared.errors import ConfigurationError, Unavailable
from shared.kafka import Publisher, ensure_topics, offsets_held, read_offsets
from shared.kafka import topics as kafka_topics
from shared.messages import OutMessage
from shared.settings import KafkaSettings

LOGIN = {"sasl.username": "shop", "sasl.password": "hunter2"}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = embedded.start_kafka(tmp_path_factory.mktemp("kafka"))
    yield server.address
    server.kill()


def test_every_client_logs_in(address: str) -> None:
    options = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN", **LOGIN}
    settings = KafkaSettings(bootstrap_servers=address, client_config=options, partitions=1)
    assert ensure_topics(settings, ["clicks"]) == ["clicks"]
    publisher = Publisher(settings)
    publisher.send([OutMessage("clicks", b"k", b"v")])
    publisher.wait_acknowledged()
    (message,) = read_offsets(settings, "clicks", offsets_held(settings, "clicks"))
    assert message.value == b"v"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"security.protocol": "SSL"}, "SSL"),
        ({"security.protocol": "SASL_SSL", "sasl.mechanism": "PLAIN", **LOGIN}, "SSL"),
        (
            {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "SCRAM-SHA-512", **LOGIN},
            "SASL",
        ),
    ],
)
def test_a_login_that_fails_says_why_on_one_line(
    address: str,
    options: dict[str, object],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(kafka_topics, "REQUEST_SECONDS", 2.0)
    settings = KafkaSettings(bootstrap_servers=address, client_config=options)
    with pytest.raises(Unavailable, match=reason) as caught:
        ensure_topics(settings, ["clicks"])
    assert "NEXTCLICK_KAFKA__CLIENT_CONFIG" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_the_ca_file_of_the_options_is_read(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "none.pem")
    options = {"security.protocol": "SSL", "ssl.ca.location": nowhere}
    with pytest.raises(ConfigurationError, match=r"ssl.ca.location.*CLIENT_CONFIG"):
        ensure_topics(KafkaSettings(client_config=options), ["clicks"])
