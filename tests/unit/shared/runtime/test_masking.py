from __future__ import annotations

import io
import json
import logging
import re
import sys
import threading

import pytest
from confluent_kafka import KafkaError, KafkaException
from hypothesis import given
from hypothesis import strategies as st

from nextclick.shared.errors import ConfigurationError, Unavailable
from nextclick.shared.kafka import Publisher
from nextclick.shared.kafka.client import client_config, make_client, unavailable
from nextclick.shared.registry import Registry
from nextclick.shared.runtime import environment, logs
from nextclick.shared.runtime.masking import (
    masked_url,
    printable,
    redact,
    secrets_of_options,
    secrets_of_url,
)
from nextclick.shared.runtime.settings import KafkaSettings, RegistrySettings, Settings

ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=[]))  # lone surrogates, too


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://:hunter2@host/0", "redis://…@host/0"),
        ("redis://user:hunter2@host/0", "redis://…@host/0"),
        ("redis://user:hun/ter2#?@host/0", "redis://…@host/0"),
        ("s3://KEY:hunter2/+abc@bucket/models", "s3://…@bucket/models"),
        ("simplecache::s3://KEY:hunter2@bucket", "simplecache::s3://…@bucket"),
        ("https://host/x?sig=hunter2&v=1", "https://host/x?sig=…&v=1"),
        ("rediss://h?ssl_password=hunter2", "rediss://h?ssl_password=…"),
        ("/data/registry", "/data/registry"),
        ("registry", "registry"),
    ],
)
def test_a_url_is_shown_without_its_login(url: str, shown: str) -> None:
    assert masked_url(url) == shown
    assert "hunter2" not in redact(secrets_of_url(url), f"cannot open {url}")


secret_texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=4, max_size=20)


@given(secret=secret_texts, before=st.text(), after=st.text())
def test_no_secret_is_left_in_any_text(secret: str, before: str, after: str) -> None:
    options = {"sasl.password": secret, "security.protocol": "SSL"}
    for form in (secret, repr(secret), json.dumps(secret)):
        left = redact(secrets_of_options(options), f"<{form}>")
        assert secret not in left
        assert re.fullmatch("<.?….?>", left)


def test_what_is_no_secret_stays() -> None:
    assert secrets_of_options({"security.protocol": "SASL_SSL", "group.id": "g"}) == set()
    assert redact({"abc"}, "abc is short") == "abc is short"


@given(ANY_TEXT)
def test_printable_is_one_line_of_what_can_be_written(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    shown.encode()


class Captured:
    """A logger that writes as the services do."""

    def __init__(self, *secrets: str) -> None:
        self.stream = io.StringIO()
        handler = logging.StreamHandler(self.stream)
        handler.setFormatter(logs.TextFormatter("worker", secrets))
        self.log = logging.Logger("test")
        self.log.addHandler(handler)

    def lines(self) -> list[str]:
        return self.stream.getvalue().split("\n")[:-1]


@given(ANY_TEXT)
def test_nothing_logged_forges_a_record(text: str) -> None:
    captured = Captured()
    captured.log.warning("user %s", text)
    (line,) = captured.lines()
    assert line.isprintable()
    try:
        raise ValueError(text + "\n2026-01-01 00:00:00,000 worker ERROR forged")
    except ValueError:
        captured.log.exception("model %s", text)
    _, record, *trace = captured.lines()
    assert record.isprintable()
    assert all(line.startswith("    ") and line.isprintable() for line in trace)


def test_no_secret_is_logged_not_even_in_a_traceback() -> None:
    captured = Captured("hunter2")
    captured.log.warning("cannot reach redis://:%s@host", "hunter2")
    try:
        raise ValueError("hunter2")
    except ValueError:
        captured.log.exception("a bug")
    assert "hunter2" not in captured.stream.getvalue()


def test_what_ends_the_process_is_logged_so_too(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    root = logging.getLogger()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(root, "handlers", [])  # set_up replaces them, not pytest's
    monkeypatch.setattr(root, "level", root.level)
    logs.set_up("worker", "INFO", {"hunter2"})
    error = ValueError("hunter2\nforged \x1b[31m")
    sys.excepthook(ValueError, error, None)
    text = stream.getvalue()
    assert "CRITICAL" in text
    assert "ValueError" in text
    assert "hunter2" not in text
    assert "\nforged" not in text
    assert "\x1b" not in text


def test_the_environments_secrets_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXTCLICK_REDIS__URL", "redis://u:p%40ss@h")
    monkeypatch.setenv("nextclick_registry__url", "s3://key:sec/ret@bucket")
    monkeypatch.setenv("NEXTCLICK_KAFKA__CLIENT_CONFIG", '{"ssl.key.pem": "PEM", "group.id": "g"}')
    assert environment.secrets() == {"p%40ss", "p@ss", "sec/ret", "PEM"}
    monkeypatch.setenv("NEXTCLICK_KAFKA__CLIENT_CONFIG", "sasl.password=hunter2")
    assert "sasl.password=hunter2" in environment.secrets()


def test_settings_print_neither_logins_nor_client_options() -> None:
    shown = repr(Settings(registry=RegistrySettings(url="s3://key:hunter2@bucket")))
    assert "hunter2" not in shown


def test_a_registry_never_shows_its_login(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Registry("nosuch://key:hunter2@bucket/models")
    assert "hunter2" not in str(caught.value)
    assert "…@bucket" in str(caught.value)
    registry = Registry("memory://key:hunter2@bucket/models")

    def fails(*_: object, **__: object) -> None:
        raise OSError("403 for https://key:hunter2@bucket/models")

    monkeypatch.setattr(registry._fs, "cat_file", fails)
    monkeypatch.setattr(registry._fs, "makedirs", fails)
    for ask in (registry.pointer, registry.check_writable, lambda: registry.load("v")):
        with pytest.raises(Unavailable) as away:
            ask()
        assert "hunter2" not in str(away.value)
        assert "403" in str(away.value)


def test_client_options_reach_librdkafka() -> None:
    options = {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "shop",
        "sasl.password": "hunter2",
    }
    given_to: dict[str, object] = {}
    make_client(given_to.update, client_config(KafkaSettings(client_config=options)))
    assert options.items() <= given_to.items()
    Publisher(KafkaSettings(client_config=options))  # and librdkafka takes them


@pytest.mark.parametrize(
    "options",
    [
        {
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "NONE-SUCH",
            "sasl.password": "hunter2",
        },
        {"sasl.pasword": "hunter2"},
        {"security.protocol": "hunter2!"},
        {"ssl.key.pem": "hunter2", "security.protocol": "SSL"},
        {"ssl.ca.location": "/no/such/file", "security.protocol": "SSL", "x.password": "hunter2"},
    ],
)
def test_options_that_librdkafka_refuses_are_one_line_without_secrets(
    options: dict[str, object],
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Publisher(KafkaSettings(client_config=options))
    text = str(caught.value)
    assert "NEXTCLICK_KAFKA__CLIENT_CONFIG" in text
    assert "\n" not in text
    assert "hunter2" not in text.replace("hunter2!", "")  # a protocol's name is no secret
    assert caught.value.__suppress_context__


def test_what_librdkafka_logs_and_answers_holds_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    options = {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "PLAIN",
        "sasl.username": "shop",
        "sasl.password": "hunter2",
        "debug": "all",
    }
    settings = KafkaSettings(bootstrap_servers="127.0.0.1:1", client_config=options)
    caplog.set_level(logging.DEBUG, "librdkafka")
    publisher = Publisher(settings)
    publisher._producer.poll(0.5)
    assert "sasl.username" in caplog.text
    assert "hunter2" not in caplog.text
    error = KafkaException(KafkaError(KafkaError._AUTHENTICATION, "bad config: hunter2"))
    assert "hunter2" not in str(unavailable(settings, error))
