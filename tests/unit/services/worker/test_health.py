"""A worker's readiness: what Kafka's leaders say is not enough."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from nextclick.services.worker.health import ACKNOWLEDGED_SECONDS, checks
from nextclick.shared.errors import Unavailable


def kafka_check(open_since: float | None) -> None:
    sessions = SimpleNamespace(ping=lambda: None)
    slot = SimpleNamespace(check_arms=lambda: None)
    worker = cast(Any, SimpleNamespace(open_since=open_since, sessions=sessions, slot=slot))
    monitor = cast(Any, SimpleNamespace(ping=lambda timeout: None))
    checks(worker, lambda: None, monitor)["kafka"]()


def test_kafka_is_there_if_its_leaders_answer_and_no_answer_is_overdue() -> None:
    kafka_check(None)
    kafka_check(time.monotonic())


def test_kafka_that_acknowledges_nothing_is_not_there() -> None:
    with pytest.raises(Unavailable, match=r"acknowledged no answer for \d+ s"):
        kafka_check(time.monotonic() - ACKNOWLEDGED_SECONDS - 1)
