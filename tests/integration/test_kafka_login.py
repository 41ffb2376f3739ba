"""SASL and TLS of Kafka, on a broker that demands them."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from nextclick.shared import embedded
from nextclick.shared.errors import ConfigurationError, Unavailable
from nextclick.shared.kafka import Publisher, ensure_topics, read_offsets, retained_offsets
from nextclick.shared.kafka import topics as kafka_topics
from nextclick.shared.messages import OutMessage
from nextclick.shared.runtime.settings import KafkaSettings

PASSWORD = "hunter2"
LOGIN = {"sasl.mechanism": "PLAIN", "sasl.username": "shop", "sasl.password": PASSWORD}
PROTOCOLS = ("PLAINTEXT", "SASL_PLAINTEXT", "SSL", "SASL_SSL")


@dataclass(frozen=True)
class Guarded:
    """A broker with a port for each security protocol."""

    ports: dict[str, int]
    ca: Path
    """The certificate that clients must know."""

    def settings(self, port_of: str, options: dict[str, object]) -> KafkaSettings:
        address = f"127.0.0.1:{self.ports[port_of]}"
        return KafkaSettings(bootstrap_servers=address, client_config=options, partitions=1)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("kafka")
    ca, key_and_certificate = folder / "ca.pem", folder / "server.pem"
    key, certificate = make_certificate()
    ca.write_bytes(certificate)
    key_and_certificate.write_bytes(key + certificate)
    more = {protocol: embedded.free_port() for protocol in PROTOCOLS[1:]}
    users = (
        f'org.apache.kafka.common.security.plain.PlainLoginModule required user_shop="{PASSWORD}";'
    )
    server = embedded.start_kafka(
        folder,
        listeners=more,
        properties={
            "sasl.enabled.mechanisms": "PLAIN",
            "listener.name.sasl_plaintext.plain.sasl.jaas.config": users,
            "listener.name.sasl_ssl.plain.sasl.jaas.config": users,
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(key_and_certificate),
        },
    )
    yield Guarded({"PLAINTEXT": server.port, **more}, ca)
    server.kill()


def make_certificate(*, days: int = 1, host: str = "127.0.0.1") -> tuple[bytes, bytes]:
    """A key and a certificate for an address that it has signed itself, both as PEM.

    It is valid for so many days from now; below 0: since so long it is not.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "nextclick test")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address(host))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=9))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    key_pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return key_pem, certificate.public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_client_logs_in(guarded: Guarded, protocol: str) -> None:
    options: dict[str, object] = {"security.protocol": protocol}
    options |= LOGIN if protocol.startswith("SASL") else {}
    options |= {"ssl.ca.location": str(guarded.ca)} if protocol.endswith("SSL") else {}
    settings = guarded.settings(protocol, options)
    topic = f"clicks-{protocol}"
    assert ensure_topics(settings, [topic]) == [topic]
    publisher = Publisher(settings)
    publisher.send([OutMessage(topic, b"k", b"v")])
    publisher.wait_acknowledged()
    (message,) = read_offsets(settings, topic, retained_offsets(settings, topic))
    assert message.value == b"v"


@pytest.mark.parametrize(
    ("port_of", "options", "reason"),
    [
        ("PLAINTEXT", {"security.protocol": "SSL"}, "SSL"),
        ("PLAINTEXT", {"security.protocol": "SASL_SSL", **LOGIN}, "SSL"),
        ("SSL", {"security.protocol": "SSL"}, "certificate"),
        (
            "SASL_PLAINTEXT",
            {"security.protocol": "SASL_PLAINTEXT", **LOGIN, "sasl.password": "hunter22"},
            "SASL",
        ),
        (
            "SASL_PLAINTEXT",
            {"security.protocol": "SASL_PLAINTEXT", **LOGIN, "sasl.mechanism": "SCRAM-SHA-512"},
            "SASL",
        ),
    ],
)
def test_a_login_that_fails_says_why_on_one_line(
    guarded: Guarded,
    port_of: str,
    options: dict[str, object],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(kafka_topics, "REQUEST_SECONDS", 2.0)
    with pytest.raises(Unavailable, match=reason) as caught:
        ensure_topics(guarded.settings(port_of, options), ["clicks"])
    assert "NEXTCLICK_KAFKA__CLIENT_CONFIG" in str(caught.value)
    assert PASSWORD not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("flaw", [{"days": -1}, {"host": "10.0.0.1"}])
def test_a_certificate_of_a_known_ca_may_be_refused_for_other_reasons(
    flaw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """librdkafka blames the CA whatever it is."""
    monkeypatch.setattr(kafka_topics, "REQUEST_SECONDS", 1.0)
    key, certificate = make_certificate(**flaw)
    (tmp_path / "ca.pem").write_bytes(certificate)
    (tmp_path / "server.pem").write_bytes(key + certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_shake_hands, args=(server, context), daemon=True).start()
        settings = KafkaSettings(
            bootstrap_servers=f"127.0.0.1:{server.getsockname()[1]}",
            client_config={
                "security.protocol": "SSL",
                "ssl.ca.location": str(tmp_path / "ca.pem"),
            },
        )
        with pytest.raises(Unavailable, match="expired, or is not for this host"):
            ensure_topics(settings, ["clicks"])


def _shake_hands(server: socket.socket, context: ssl.SSLContext) -> None:
    while True:
        try:
            client, _ = server.accept()
        except OSError:  # closed
            return
        with contextlib.suppress(OSError):
            context.wrap_socket(client, server_side=True).close()


def test_the_ca_file_of_the_options_is_read(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "none.pem")
    options = {"security.protocol": "SSL", "ssl.ca.location": nowhere}
    with pytest.raises(ConfigurationError, match=r"ssl.ca.location.*CLIENT_CONFIG"):
        ensure_topics(KafkaSettings(client_config=options), ["clicks"])
