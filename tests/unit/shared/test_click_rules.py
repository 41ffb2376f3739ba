"""What counts as a click, and at what time; each case of a producer that is wrong."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextclick.shared.click_rules import REMEDIES, time_anomaly
from nextclick.shared.event_types import weights_of
from nextclick.shared.messages import REDRIVEN, REPLAYED, Message
from nextclick.shared.runtime import metrics
from nextclick.shared.runtime.anomalies import click_rules
from nextclick.shared.runtime.settings import ClickSettings
from nextclick.shared.schemas import Click

NOW = 1_764_000_000_000
DAY = 86_400_000


def message(timestamp: int = NOW, event_type: str = "click", key: bytes | None = b"u") -> Message:
    click = Click(
        event_id="e", user_id="u", item_id="i", timestamp=timestamp, event_type=event_type
    )
    return Message("clicks", 3, 120, key, click.model_dump_json().encode(), (), NOW)


def counted() -> dict[str, float]:
    """Anomaly → how often, since this process began."""
    found = {}
    for kind in REMEDIES:
        found[kind] = metrics.CLICK_ANOMALIES.labels(kind)._value.get()
    return found


def read(*messages: Message, settings: ClickSettings | None = None) -> tuple[list[Click], set[str]]:
    """The clicks of messages, and the kinds of anomalies that were counted."""
    rules, before = click_rules(settings or ClickSettings()), counted()
    clicks = [click for one in messages if (click := rules.read(one)) is not None]
    return clicks, {kind for kind, value in counted().items() if value > before[kind]}


@pytest.mark.parametrize(
    ("timestamp", "anomaly"),
    [
        (NOW // 1000, "time_in_seconds"),
        (NOW * 1000 + 7, "time_in_microseconds"),
        (NOW * 1_000_000 + 7, "time_in_nanoseconds"),
        (0, "time_behind"),
        (-NOW, "time_behind"),
        (253_402_300_799_999, "time_ahead"),
        (NOW + 3 * DAY, "time_ahead"),
        (NOW - 40 * DAY, "time_behind"),
        (NOW - DAY - 1, "time_behind"),
        (NOW + 300_001, "time_ahead"),
    ],
    ids=[
        "seconds",
        "microseconds",
        "nanoseconds",
        "0",
        "negative",
        "year 9999",
        "3 days ahead",
        "40 days old",
        "a day and 1 ms old",
        "5 minutes and 1 ms ahead",
    ],
)
def test_an_implausible_time_is_replaced_by_kafkas_and_counted(
    timestamp: int, anomaly: str
) -> None:
    (click,), kinds = read(message(timestamp))
    assert click.timestamp == NOW
    assert kinds == {anomaly}


@pytest.mark.parametrize("timestamp", [NOW, NOW - DAY, NOW + 300_000])
def test_a_plausible_time_counts(timestamp: int) -> None:
    (click,), kinds = read(message(timestamp))
    assert click.timestamp == timestamp
    assert kinds == set()


@pytest.mark.parametrize("header", [REPLAYED, REDRIVEN])
def test_a_click_that_is_old_on_purpose_keeps_its_time(header: str) -> None:
    old, ahead = (
        replace(message(at), headers=((header, b"1"),)) for at in (NOW - 900 * DAY, NOW + DAY)
    )
    clicks, kinds = read(old, ahead)
    assert [click.timestamp for click in clicks] == [NOW - 900 * DAY, NOW]
    assert kinds == {"time_ahead"}


def test_without_kafkas_time_there_is_only_the_clicks() -> None:
    (click,), kinds = read(replace(message(5), timestamp_ms=None))
    assert (click.timestamp, kinds) == (5, set())


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**42))
def test_any_time_is_judged_and_what_is_used_is_plausible(event_ms: int, kafka_ms: int) -> None:
    anomaly = time_anomaly(event_ms, kafka_ms, DAY, 300_000)
    assert anomaly in ("", *REMEDIES)
    assert (anomaly == "") == (kafka_ms - DAY <= event_ms <= kafka_ms + 300_000)
    assert time_anomaly(kafka_ms, kafka_ms, DAY, 300_000) == ""


@pytest.mark.parametrize(
    ("event_type", "clicks", "kinds"),
    [
        ("click", 1, set()),
        ("pv", 1, set()),
        ("Order Completed", 1, set()),
        ("add-to-cart", 1, set()),
        ("impression", 0, {"event_type_ignored"}),
        ("REMOVE_FROM_CART", 0, {"event_type_ignored"}),
        ("yodel", 1, {"event_type_unknown"}),
    ],
)
def test_the_type_decides_whether_an_event_is_a_click(
    event_type: str, clicks: int, kinds: set[str]
) -> None:
    found = read(message(event_type=event_type))
    assert (len(found[0]), found[1]) == (clicks, kinds)


def test_settings_change_single_weights() -> None:
    settings = ClickSettings(event_weights={"View": 0.5, "purchase": 0, "*": 0})
    weights = weights_of(settings.event_weights)
    assert (weights["view"], weights["purchase"], weights["click"]) == (0.5, 0, 1)
    types = ("view", "purchase", "click", "yodel")
    clicks, kinds = read(*(message(event_type=name) for name in types), settings=settings)
    assert [click.event_type for click in clicks] == ["view", "click"]
    assert kinds == {"event_type_ignored", "event_type_unknown"}


@pytest.mark.parametrize(
    ("key", "kinds"),
    [
        (b"u", set()),
        (None, {"no_key"}),
        (b"session-9", {"key_is_not_user_id"}),
        (b"\xff", {"key_is_not_user_id"}),
    ],
)
def test_a_key_that_is_not_the_user_id_is_counted(key: bytes | None, kinds: set[str]) -> None:
    clicks, found = read(message(key=key))
    assert len(clicks) == 1
    assert found == kinds


def test_a_line_a_minute_says_how_many_and_where(caplog: pytest.LogCaptureFixture) -> None:
    rules = click_rules(ClickSettings())
    with caplog.at_level(logging.WARNING):
        for _ in range(1000):
            rules.read(message(NOW // 1000))
    (record,) = caplog.records
    assert "timestamps are in seconds" in record.getMessage()
    assert "partition 3, offset 120" in record.getMessage()


def test_every_kind_is_counted_from_the_start() -> None:
    assert metrics.LABEL_VALUES[metrics.CLICK_ANOMALIES] == tuple(REMEDIES)


def test_hostile_types_do_not_fill_the_memory() -> None:
    rules = click_rules(ClickSettings())
    for number in range(3000):
        rules.read(message(event_type=f"t{number}"))
    assert len(rules._weights_seen) <= 1000
