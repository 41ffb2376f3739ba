"""The clicks of the last minute, as the worker will read them."""

from __future__ import annotations

import pytest

from nextclick.services.api.published_clicks import PublishedClicks
from nextclick.shared.click_rules import ClickRules
from nextclick.shared.redis import MAX_UNCOMMITTED_CLICKS_PER_USER, MemorySessions
from nextclick.shared.schemas import Click

NOW_MS = 1_700_000_000_000


class Clock:
    now = NOW_MS / 1000

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def click(
    number: int, user: str = "u", event_type: str = "click", timestamp: int = NOW_MS
) -> Click:
    return Click(
        event_id=f"e{number}",
        user_id=user,
        item_id=f"i{number}",
        timestamp=timestamp,
        event_type=event_type,
    )


def test_a_click_follows_those_of_its_user_that_came_before(clock: Clock) -> None:
    published = PublishedClicks(ClickRules(), clock)
    published.add([click(1), click(2, "v"), click(3)])
    published.add([click(4)])
    assert published.up_to(click(3)) == [click(1), click(3)]
    assert published.up_to(click(4)) == [click(1), click(3), click(4)]
    assert published.up_to(click(2, "v")) == [click(2, "v")]
    assert published.up_to(click(9)) == []


def test_after_a_minute_the_worker_has_it(clock: Clock) -> None:
    published = PublishedClicks(ClickRules(), clock)
    published.add([click(1)])
    clock.now += 61
    published.add([click(2)])
    assert published.up_to(click(2)) == [click(2)]


def test_the_worker_s_rules_hold(clock: Clock) -> None:
    published = PublishedClicks(ClickRules({"view": 0}), clock)
    published.add([click(1), click(2, event_type="view"), click(3, timestamp=5)])
    assert published.up_to(click(2)) == []
    assert published.up_to(click(3)) == [click(1), click(3)], "with Kafka's time"


def test_memory_is_bounded(clock: Clock) -> None:
    published = PublishedClicks(ClickRules(), clock)
    published.add([click(n) for n in range(100)])
    assert len(published.up_to(click(99))) == MAX_UNCOMMITTED_CLICKS_PER_USER
    published.add([click(n, f"user {n}") for n in range(10_001)])
    assert published.up_to(click(99)) == []
    assert published.up_to(click(10_000, "user 10000")) == [click(10_000, "user 10000")]


def test_the_history_is_the_same_wherever_the_worker_is(clock: Clock) -> None:
    """Clicks that it has appended, none to all of them, and another one from elsewhere."""
    clicks = [click(n, timestamp=NOW_MS + n) for n in range(6)]
    histories = []
    for appended in range(len(clicks) + 1):
        published = PublishedClicks(ClickRules(), clock)
        sessions = MemorySessions(gap_ms=1000, ttl_seconds=60)
        sessions.append([click(100, timestamp=NOW_MS - 10)])
        published.add(clicks)
        sessions.append(clicks[:appended])
        histories.append(sessions.preview(published.up_to(clicks[4]))[-1])
    assert histories == [["i100", "i0", "i1", "i2", "i3", "i4"]] * 7
