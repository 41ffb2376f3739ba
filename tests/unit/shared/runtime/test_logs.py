"""JSON log lines: one object a line, the fields a call names, no secret. Text: test_masking.py."""

from __future__ import annotations

import io
import json
import logging
import sys
import threading
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextclick.services.worker import decide
from nextclick.shared.errors import BadClick
from nextclick.shared.messages import Message
from nextclick.shared.runtime import logs

ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=[]))  # lone surrogates, too


class Captured:
    """A logger that writes as the services do."""

    def __init__(self, *secrets: str) -> None:
        self.stream = io.StringIO()
        handler = logging.StreamHandler(self.stream)
        handler.setFormatter(logs.JsonFormatter("worker", secrets))
        self.log = logging.Logger("nextclick.shared.test")
        self.log.addHandler(handler)

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().split("\n")[:-1]]


def test_a_record_has_the_keys_that_operators_search_by() -> None:
    captured = Captured()
    before = datetime.now(UTC)
    about = {"model_version": "v2", "previous_version": None, "reason": "worse", "colour": "red"}
    captured.log.error("rolled back from %s", "v3", extra=about)
    (record,) = captured.records()
    at = record.pop("time")
    assert len(at) == len("2026-01-31T12:00:00.123Z")
    assert at.endswith("Z")
    assert abs((datetime.fromisoformat(at) - before).total_seconds()) < 5
    assert record == {
        "level": "ERROR",
        "logger": "nextclick.shared.test",
        "service": "worker",
        "message": "rolled back from v3",
        "model_version": "v2",
        "reason": "worse",
    }


@given(ANY_TEXT)
def test_whatever_is_logged_is_one_line_of_ascii_and_comes_back_whole(text: str) -> None:
    captured = Captured()
    try:
        raise ValueError(text)
    except ValueError:
        captured.log.exception("user %s", text, extra={"event_id": text})
    line = captured.stream.getvalue()
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    assert line.isascii()
    (record,) = captured.records()
    assert record["message"] == f"user {text}"
    assert record["event_id"] == text
    assert record["exception"].startswith("Traceback")
    assert record["exception"].endswith(f"ValueError: {text}" if text else "ValueError")


@pytest.mark.parametrize(
    "secret", ["hunter2", 'hun"ter\\2', "hüntér2"], ids=["plain", "quoted", "accents"]
)
def test_no_secret_is_in_any_field(secret: str) -> None:
    captured = Captured(secret)
    try:
        raise ValueError(secret, repr(secret))
    except ValueError:
        captured.log.exception("redis://:%s@host", secret, extra={"event_id": secret})
    (record,) = captured.records()
    assert secret not in captured.stream.getvalue()
    for value in record.values():
        assert secret not in value
        assert json.dumps(secret)[1:-1] not in value
    assert record["event_id"] == "…"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("form", "stream", "as_json"),
    [
        ("auto", Terminal(), False),
        ("auto", io.StringIO(), True),
        ("json", Terminal(), True),
        ("text", io.StringIO(), False),
    ],
)
def test_a_person_gets_text_and_a_collector_json(
    monkeypatch: pytest.MonkeyPatch, form: logs.LogFormat, stream: io.StringIO, as_json: bool
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(root, "handlers", [])  # set_up replaces them, not pytest's
    monkeypatch.setattr(root, "level", root.level)
    logs.set_up("worker", "INFO", {"hunter2"}, form, stream)
    logging.captureWarnings(False)
    assert logs.is_json() == as_json
    sys.excepthook(ValueError, ValueError("hunter2\n"), None)
    thread = threading.Thread(target=lambda: 1 / 0, name="beside")
    thread.start()
    thread.join()
    text = stream.getvalue()
    assert "hunter2" not in text
    if as_json:
        ended, also = map(json.loads, text.splitlines())
        assert ended["level"] == also["level"] == "CRITICAL"
        assert "ValueError" in ended["exception"]
        assert "beside" in also["message"]
        assert "ZeroDivisionError" in also["exception"]
    else:
        assert "beside" in text
        assert "\n    ZeroDivisionError" in text


@pytest.mark.parametrize(
    ("value", "reason", "event_id"),
    [
        (b'{"event_id": "e1"}', "invalid", "e1"),
        (b'{"event_id": 7}', "invalid", None),
        (b'{"event_id": "' + b"x" * 65 + b'"}', "invalid", None),
        (b"[1]", "invalid", None),
        (b"nonsense", "not_json", None),
        (None, "empty", None),
    ],
    ids=["a string", "a number", "too long", "a list", "no JSON", "no value"],
)
def test_a_dead_letters_record_says_where_it_lay_and_which_click_it_meant_to_be(
    value: bytes | None, reason: str, event_id: str | None
) -> None:
    about = decide.log_fields(Message("clicks", 3, 17, b"k", value), BadClick(reason, "why"))
    assert about == {
        "event_id": event_id,
        "topic": "clicks",
        "partition": 3,
        "offset": 17,
        "reason": reason,
    }
    assert about.keys() <= set(logs.FIELDS)
